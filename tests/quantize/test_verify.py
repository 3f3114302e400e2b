"""Measuring what a conversion cost: against NumPy, against damage, and without a tokenizer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.config.recipes import find
from qwen3_mlx.errors import CheckpointError, HubError
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize import verify
from qwen3_mlx.quantize.divergence import Divergence
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.quantize.layer_by_layer import hidden_states, logits_blocks
from tests.oracle import assert_close
from tests.quantize import foreign
from tests.quantize.build import DENSE, MOE, bf16_model, write_model
from tests.quantize.conftest import convert, request
from tests.quantize.test_formats import CASES

SPLITS = ([20], [1, 19], [7, 6, 7], [1] * 20)


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: f"{len(split)} blocks")
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_divergence_is_the_textbooks(split: list[int], size: float) -> None:
    rng = np.random.default_rng(0)
    z, w = (size * rng.standard_normal((5, 20)) for _ in range(2))
    targets = rng.integers(0, 20, 5)
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (z, w))
    sums, start = Divergence(mx.array(targets)), 0
    for width in split:
        block = slice(start, start + width)
        sums.add(*(mx.array(x[:, block].astype(np.float32)) for x in (z, w)))
        start += width
    assert_close(np.array(sums.kl()), (np.exp(p) * (p - q)).sum(-1))
    assert_close(np.array(sums.source.loss()), -p[range(5), targets])
    assert_close(np.array(sums.result.loss()), -q[range(5), targets])
    assert np.array_equal(np.array(sums.agree()), z.argmax(-1) == w.argmax(-1))


@pytest.mark.parametrize("config", [DENSE, DENSE | {"tie_word_embeddings": False}, MOE])
def test_layer_by_layer_is_the_network(tmp_path: Path, config: dict[str, Any]) -> None:
    model = bf16_model(tmp_path / "in", config)
    network, _ = load_network(model)
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    source = open_source(model)
    states = hidden_states(source, ids)
    assert_close(states, network.model(mx.array([ids]))[0])
    blocks = mx.concatenate(list(logits_blocks(source, states)), axis=-1)
    assert_close(blocks, network(mx.array([ids]))[0])


def test_an_exact_copy_diverges_by_nothing(dense: Path, tmp_path: Path) -> None:
    found = convert(dense, tmp_path / "out", "bf16", verify=True)["measured"]
    assert found["kl_mean"] <= 1e-6 and found["agreement"] == 1
    assert found["perplexity_source"] == found["perplexity_result"]
    assert found["loaded"] and "bundled text" in found["text"]
    assert 400 <= found["tokens"] <= verify.MAX_TOKENS


def test_fewer_bits_diverge_more(dense: Path, tmp_path: Path) -> None:
    kls = [
        convert(dense, tmp_path / recipe, recipe, verify=True)["measured"]["kl_mean"]
        for recipe in ("bf16", "8bit", "6bit", "5bit", "4bit")
    ]
    assert kls == sorted(kls) and kls[4] > 10 * kls[1] > 0


def test_the_text_has_ten_languages_and_suits_the_real_tokenizer(qwen3_files: Path) -> None:
    from qwen3_mlx.text import Tokenizer

    text = verify.TEXT.read_text("utf-8")
    scripts = ("清", "図", "아", "У", "ف", "न", "ü", "è", "naranjas", "def ")
    assert all(mark in text for mark in scripts)
    assert 350 < len(Tokenizer.from_dir(qwen3_files).encode(text)) < 550


def test_without_a_tokenizer_made_up_ids_are_used_and_said(moe: Path, tmp_path: Path) -> None:
    found = convert(moe, tmp_path / "out", "8bit", verify=True)["measured"]
    assert "pseudo-random" in found["text"] and found["tokens"] == verify.RANDOM_TOKENS
    ids, _ = verify.token_ids(open_source(moe))
    assert len(set(ids)) > 150 and max(ids) < 512
    assert "pseudo-random" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "case", ["fp8, ragged blocks", "awq", "gptq, activation order", "fp8, experts"]
)
def test_foreign_sources_are_compared_too(tmp_path: Path, case: str) -> None:
    config, block, pack = CASES[case]
    config = config | {"hidden_size": 128}
    tensors, _ = foreign.model(config, pack)
    write_model(tmp_path / "in", config | {"quantization_config": block}, tensors)
    found = convert(tmp_path / "in", tmp_path / "out", "bf16", verify=True)
    assert found["measured"]["kl_mean"] < 1e-3
    assert found["source"]["format"] == block["quant_method"]


class Damage:
    """Spoils a result between writing and measuring."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
        real = verify.compare

        def compare(source: Any, result: Path, *more: Any) -> Any:
            file = result / "model.safetensors"
            tensors = mx.load(str(file))
            assert isinstance(tensors, dict)
            tensors[name] = mx.full(tensors[name].shape, value, dtype=tensors[name].dtype)
            mx.save_safetensors(str(file), tensors)
            return real(source, result, *more)

        monkeypatch.setattr(verify, "compare", compare)


@pytest.mark.parametrize("value", [0.0, 50.0, math.nan])
def test_damage_is_found_and_not_published(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    Damage(monkeypatch, "model.layers.0.self_attn.o_proj.scales", value)
    try:
        record = convert(dense, tmp_path / "out", "8bit", verify=True)
    except CheckpointError as error:
        assert math.isnan(value) and "the loader computes something else" in str(error)
        return
    assert not jobs.passes(record)
    with pytest.raises(HubError, match="too far from its source"):
        jobs.check_publishable(record, force=False)
    jobs.check_publishable(record, force=True)


@pytest.mark.parametrize("kl, perplexity", [(math.nan, 3.0), (0.1, math.nan), (0.1, math.inf)])
def test_what_is_no_number_passes_no_bound(kl: float, perplexity: float) -> None:
    found = verify.Comparison(9, "", kl, kl, 1.0, 3.0, perplexity, True)
    assert not found.within(1e9)
    record = {"measured": found.as_dict(), "recipe": {"bound": 1e9}}
    assert not jobs.passes(record)


def test_nan_logits_are_not_taken_for_agreement() -> None:
    sums = Divergence(mx.array([0, 1]))
    sums.add(mx.ones((2, 4)), mx.full((2, 4), mx.nan))
    found = verify._comparison(sums, 2, "", True)
    assert math.isnan(found.kl_mean) and not found.within(1e9)


def test_nothing_measured_is_not_published(dense: Path, tmp_path: Path) -> None:
    record = convert(dense, tmp_path / "out", verify=False)
    with pytest.raises(HubError, match="was not compared with its source"):
        jobs.check_publishable(record, force=False)
    later = convert(dense, tmp_path / "out", verify=True)  # the same conversion, measured now
    assert jobs.passes(later) and jobs.passes(convert(dense, tmp_path / "out", verify=True))


def test_a_result_that_does_not_fit_is_compared_all_the_same(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = convert(dense, tmp_path / "a", verify=True)["measured"]
    monkeypatch.setattr(verify, "this_machine", lambda: Machine(1000, "a very small machine"))
    monkeypatch.setattr(verify, "load_network", lambda _: pytest.fail("loaded"))
    found = convert(dense, tmp_path / "b", verify=True)["measured"]
    assert found == want | {"loaded": False}


def test_a_loader_that_reads_something_else_is_an_error(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path) -> Any:
        network, config = load_network(path)
        network.model.norm.weight = network.model.norm.weight * 1.01
        return network, config

    monkeypatch.setattr(verify, "load_network", wrong)
    with pytest.raises(CheckpointError, match="something else than was written"):
        convert(dense, tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["4bit", "mixed-4-6", "8bit", "mxfp4"])
def test_every_recipe_keeps_the_trained_demo_within_its_bound(tmp_path: Path, recipe: str) -> None:
    demo = resolve.resolve("demo")
    asked = replace(request(demo, tmp_path / "out", recipe), verify=True)
    record = jobs.run(jobs.prepare(asked))
    assert record["measured"]["kl_mean"] <= find(recipe).bound
    assert record["measured"]["agreement"] > 0.6  # it never saw such a text
