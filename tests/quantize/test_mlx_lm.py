"""Side by side with mlx-lm: its checkpoints load here, ours load there, byte for byte where the
recipes agree. Needs the `bench` dependency group."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.config.recipes import RECIPES, find
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize import learned
from tests.oracle import assert_close
from tests.quantize.build import DENSE, MOE, bf16_model, read_model
from tests.quantize.conftest import convert, request

pytestmark = pytest.mark.filterwarnings("ignore")
if importlib.util.find_spec("mlx_lm") is None:  # imported by the tests: it takes a second
    pytest.skip("mlx-lm is in the dependency group `bench`", allow_module_level=True)

TOKENS = mx.array([[3, 14, 159, 26, 5, 35, 89, 79, 323, 84]])
NMSE = 1e-9
"""Both compute in float32; the order of the sums differs."""


@pytest.fixture(params=["dense", "untied", "moe"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = {
        "dense": DENSE,
        "untied": DENSE | {"tie_word_embeddings": False},
        "moe": MOE | {"num_experts": 8, "num_experts_per_tok": 3},
    }[request.param]
    return bf16_model(tmp_path / "in", config | {"num_hidden_layers": 4}, shards=2)


def theirs(directory: Path) -> np.ndarray:
    """mlx-lm's logits, in float32."""
    from mlx_lm.utils import load_model

    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    return np.array(model(TOKENS).astype(mx.float32))


def ours(directory: Path) -> np.ndarray:
    network, _ = load_network(directory)
    return np.array(network(TOKENS).astype(mx.float32))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_result_gives_the_same_logits_in_mlx_lm(
    source: Path, tmp_path: Path, recipe: str
) -> None:
    chosen = find(recipe) if recipe != "dynamic" else replace(find(recipe), target=6.6)
    convert(source, tmp_path / "out", recipe=chosen, shard_bytes=200_000)
    assert_close(ours(tmp_path / "out"), theirs(tmp_path / "out"), NMSE)


def mlx_lm_convert(source: Path, out: Path, **options: Any) -> None:
    """mlx_lm.convert's own steps, without the tokenizer it insists on."""
    from mlx_lm.convert import mixed_quant_predicate_builder
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    model, config = load_model(source, lazy=True)
    predicate = options.pop("recipe", None)
    if predicate is not None:
        predicate = mixed_quant_predicate_builder(predicate, model, 64)
    if options:
        model, config = quantize_model(model, config, quant_predicate=predicate, **options)
    save_model(out, model)
    save_config(config, out / "config.json")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group_size": 64, "bits": 4},
        {"group_size": 32, "bits": 8},
        {"group_size": 64, "bits": 4, "recipe": "mixed_4_6"},
        {"group_size": None, "bits": None, "mode": "mxfp4"},
    ],
    ids=["bf16", "4bit", "8bit-g32", "mixed", "mxfp4"],
)
def test_what_mlx_lm_converts_gives_the_same_logits_here(
    source: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    mlx_lm_convert(source, tmp_path / "out", **options)
    assert_close(ours(tmp_path / "out"), theirs(tmp_path / "out"), NMSE)


@pytest.mark.parametrize(
    "recipe, options",
    [
        ("8bit", {"group_size": 64, "bits": 8}),
        ("4bit", {"group_size": 64, "bits": 4}),
        ("bf16", {}),
        ("mxfp4", {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
    ],
)
def test_where_the_recipes_agree_so_do_the_bytes(
    source: Path, tmp_path: Path, recipe: str, options: dict[str, Any]
) -> None:
    convert(source, tmp_path / "ours", recipe)
    mlx_lm_convert(source, tmp_path / "theirs", **options)
    got, want = read_model(tmp_path / "ours"), read_model(tmp_path / "theirs")
    protected = ("embed_tokens", "lm_head", "mlp.gate.")
    for name in want:
        if recipe in ("8bit", "bf16") or not any(part in name for part in protected):
            assert got[name] == want[name], name
    if recipe in ("8bit", "bf16"):
        assert set(got) == set(want)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """mlx-lm's DWQ and AWQ without their data sets and tokenizer: a few random samples instead."""
    from mlx_lm.quant import awq, dwq

    rng = np.random.default_rng(0)

    def data(*_: Any, **__: Any) -> tuple[list[Any], list[Any]]:
        samples = [(rng.integers(0, 500, 33).tolist(), 0) for _ in range(12)]
        return samples[:8], samples[8:]

    def save(out: str, _source: str, model: Any, _tokenizer: Any, config: Any) -> None:
        from mlx_lm.utils import save_config, save_model

        save_model(Path(out), model)
        save_config(config, Path(out) / "config.json")

    def load(path: str, **_: Any) -> tuple[Any, None, Any]:
        from mlx_lm.utils import load_model

        model, config = load_model(Path(path), lazy=True)
        return model, None, config

    monkeypatch.setattr(dwq, "load_data", data)
    monkeypatch.setattr(dwq, "load_tokenizer", lambda *_: None)
    monkeypatch.setattr(awq, "load_data", lambda *_: mx.array(rng.integers(0, 500, (4, 32))))
    for module in (dwq, awq):
        monkeypatch.setattr(module, "load", load)
        monkeypatch.setattr(module, "save", save)
    yield


@pytest.mark.usefixtures("quick")
def test_a_learned_packing_is_adopted_and_measured(tmp_path: Path) -> None:
    source = bf16_model(tmp_path / "in", DENSE)
    asked = request(source, tmp_path / "out", verify=True)

    def one_step(method: str, arguments: list[str]) -> None:
        learned.mlx_lm(method, [*arguments, "--learning-rate", "0.001"])

    record = learned.run(jobs.prepare(asked), "dwq", run=one_step)
    assert record["recipe"]["name"] == "4bit-dwq"
    assert record["measured"]["kl_mean"] < 1
    convert(source, tmp_path / "plain")
    got, plain = read_model(tmp_path / "out"), read_model(tmp_path / "plain")
    assert set(got) == set(plain)
    changed = [n for n in got if got[n] != plain[n]]
    # it learns scales, biases and norms; the packed integers stay
    assert changed and all(got[n][0] != "U32" for n in changed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out", "plain"]
    assert "4bit-dwq" in (tmp_path / "out" / "README.md").read_text()
    shutil.rmtree(tmp_path / "in")  # and it is loaded from where it is now
    assert np.isfinite(ours(tmp_path / "out")).all()


@pytest.mark.usefixtures("quick")
def test_awq_takes_the_place_of_our_packing(tmp_path: Path) -> None:
    source = bf16_model(tmp_path / "in", DENSE)
    asked = request(source, tmp_path / "out", verify=True)

    def coarse(method: str, arguments: list[str]) -> None:
        learned.mlx_lm(method, [*arguments, "--n-grid", "2"])

    record = learned.run(jobs.prepare(asked), "awq", run=coarse)
    assert record["recipe"]["name"] == "4bit-awq"
    assert record["measured"]["kl_mean"] < 1
    embedding = record["packings"]["model.embed_tokens"]
    assert embedding["bits"] == 6 and record["packings"]["model.layers.0.mlp.up_proj"]["bits"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    assert np.isfinite(ours(tmp_path / "out")).all()


def test_a_learned_packing_that_fails_is_one_error(tmp_path: Path) -> None:
    from qwen3_mlx.errors import CheckpointError

    source = bf16_model(tmp_path / "in", DENSE)
    with pytest.raises(CheckpointError, match="dwq failed"):
        learned.run(jobs.prepare(request(source, tmp_path / "out")), "dwq")
    assert not (tmp_path / "out").exists()
