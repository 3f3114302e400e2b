"""Strict loading: every tensor of the files and of the config is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint import load, load_network
from qwen3_mlx.errors import CheckpointError, ConfigError
from tests.checkpoints import (
    GOLDEN_BOUND,
    copy,
    expected,
    join,
    named,
    refused,
    split,
    store,
    tensors,
)
from tests.oracle import assert_close

Q0 = "model.layers.0.self_attn.q_proj.weight"
GATE0 = "model.layers.0.mlp.experts.0.gate_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untied dense checkpoint in one file."""
    return copy("dense-untied", tmp_path)


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """A mixture of five experts in two layers, stored expert by expert."""
    return copy("moe-no-norm", tmp_path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A dense checkpoint in two shards."""
    return copy("sharded-dense", tmp_path)


@pytest.mark.parametrize("name", [Q0, "model.norm.weight", "lm_head.weight"])
def test_a_missing_tensor_is_named(model: Path, name: str) -> None:
    weights = tensors(model)
    del weights[name]
    store(model, weights)
    assert named(refused(model, "missing")) == [name]


def test_many_missing_tensors_are_one_error_with_the_first_five(model: Path) -> None:
    weights = tensors(model)
    lost = sorted(weights)[3:15]
    store(model, {name: w for name, w in weights.items() if name not in lost})
    listed = named(refused(model, "12"))
    assert len(listed) == 5
    assert set(listed) < set(lost)


def test_a_surplus_tensor_is_named(model: Path) -> None:
    store(model, tensors(model) | {"model.layers.0.self_attn.q_proj.bias": mx.zeros(64)})
    assert named(refused(model, "surplus")) == ["model.layers.0.self_attn.q_proj.bias"]


def test_a_layer_too_many_is_surplus(model: Path) -> None:
    weights = tensors(model)
    more = {k.replace(".2.", ".3."): w for k, w in weights.items() if ".layers.2." in k}
    store(model, weights | more)
    assert len(named(refused(model, "surplus", str(len(more))))) == 5


def test_a_misshaped_tensor_is_named_with_both_shapes(model: Path) -> None:
    weights = tensors(model)
    weights[Q0] = weights[Q0].T
    store(model, weights)
    assert named(refused(model, "[24, 64]", "[64, 24]")) == [Q0]


@pytest.mark.parametrize("shape", [(24 * 64,), (1, 64, 24), (64, 23), (64, 0), ()])
def test_shapes_are_compared_and_not_sizes(model: Path, shape: tuple[int, ...]) -> None:
    store(model, tensors(model) | {Q0: mx.zeros(shape)})
    assert named(refused(model)) == [Q0]


def test_all_kinds_of_difference_are_one_error(model: Path) -> None:
    weights = tensors(model)
    names = sorted(weights)
    weights |= {name: mx.zeros((3, 3)) for name in names[:4]}
    for name in names[10:12]:
        del weights[name]
    store(model, weights | {"model.extra.weight": mx.zeros(2)})
    assert len(named(refused(model, "7"))) == 5


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint32, mx.uint8, mx.bool_, mx.complex64])
def test_numbers_that_are_no_floats_are_refused(model: Path, dtype: mx.Dtype) -> None:
    weights = tensors(model)
    store(model, weights | {Q0: mx.ones(weights[Q0].shape).astype(dtype)})
    refused(model, Q0)


@pytest.mark.parametrize("dtype", ["F64", "F8_E4M3", "F8_E5M2"])
def test_floats_that_qwen3_is_not_stored_in_are_refused(model: Path, dtype: str) -> None:
    header, data = split(model)
    entry = header.pop(Q0)
    size = 64 * 24 * (8 if dtype == "F64" else 1)
    at = len(data)
    header[Q0] = {"dtype": dtype, "shape": [64, 24], "data_offsets": [at, at + size]}
    start, end = entry["data_offsets"]
    header["model.filler"] = {
        "dtype": "U8",
        "shape": [end - start],
        "data_offsets": [start, end],
    }
    (model / "model.safetensors").write_bytes(join(header, data + bytes(size)))
    refused(model, Q0, dtype)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_halves_are_read_exactly(model: Path, dtype: mx.Dtype) -> None:
    weights = {name: w.astype(dtype) for name, w in tensors(model).items()}
    store(model, weights)
    network, _ = load_network(model)
    got = network.layers[0].self_attn.q_proj.weight
    assert mx.array_equal(got.astype(mx.float32), weights[Q0].astype(mx.float32))


def test_a_tied_checkpoint_may_store_its_head_again(tmp_path: Path) -> None:
    """Qwen3-0.6B does; the head is the embedding whatever the file says."""
    model = copy("dense-tied", tmp_path)
    weights = tensors(model)
    store(model, weights | {"lm_head.weight": mx.zeros((97, 64))})
    network, _ = load_network(model)
    assert "lm_head" not in network
    tokens, want = expected("dense-tied")
    assert_close(network(tokens), want, bound=GOLDEN_BOUND)


def test_an_unused_tensor_that_mlx_cannot_read_is_no_crash(tmp_path: Path) -> None:
    """A tied head in a format that MLX has no type for: refused or passed over, but cleanly."""
    model = copy("dense-tied", tmp_path)
    header, data = split(model)
    at = len(data)
    head = {"dtype": "F64", "shape": [97, 64], "data_offsets": [at, at + 97 * 64 * 8]}
    raw = join(header | {"lm_head.weight": head}, data + bytes(97 * 64 * 8))
    (model / "model.safetensors").write_bytes(raw)
    try:
        load_network(model)
    except CheckpointError as error:
        assert "model.safetensors" in str(error)


def test_an_untied_checkpoint_needs_its_own_head(tmp_path: Path) -> None:
    model = copy("dense-untied", tmp_path)
    weights = tensors(model)
    del weights["lm_head.weight"]
    store(model, weights)
    refused(model, "missing lm_head.weight")


def test_rotary_tables_of_old_exporters_are_passed_over(model: Path) -> None:
    table = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": mx.ones(8) for i in range(3)}
    store(model, tensors(model) | table)
    load_network(model)


def test_an_expert_is_missing(mixture: Path) -> None:
    weights = tensors(mixture)
    del weights["model.layers.1.mlp.experts.2.up_proj.weight"]
    store(mixture, weights)
    refused(mixture, "model.layers.1.mlp", "up_proj")


def test_experts_are_numbered_from_zero_without_gaps(mixture: Path) -> None:
    """As many tensors as experts are not enough: here number 0 is called 5."""
    weights = tensors(mixture)
    weights[GATE0.replace("experts.0", "experts.5")] = weights.pop(GATE0)
    store(mixture, weights)
    refused(mixture, "model.layers.0.mlp", "gate_proj")


def test_two_names_for_one_expert(mixture: Path) -> None:
    weights = tensors(mixture)
    weights[GATE0.replace("experts.0", "experts.00")] = mx.zeros(weights[GATE0].shape)
    store(mixture, weights)
    refused(mixture, "model.layers.0.mlp", "gate_proj")


def test_stacked_and_single_experts_together(mixture: Path) -> None:
    stack = {"model.layers.0.mlp.switch_mlp.gate_proj.weight": mx.zeros((5, 12, 24))}
    store(mixture, tensors(mixture) | stack)
    refused(mixture, "model.layers.0.mlp", "gate_proj")


def test_experts_of_different_shapes(mixture: Path) -> None:
    store(mixture, tensors(mixture) | {GATE0: mx.zeros((11, 24))})
    refused(mixture, "model.layers.0.mlp", "gate_proj")


def test_experts_of_different_dtypes(mixture: Path) -> None:
    weights = tensors(mixture)
    store(mixture, weights | {GATE0: weights[GATE0].astype(mx.int32)})
    refused(mixture, "model.layers.0.mlp", "gate_proj")


def test_experts_in_a_dense_network(model: Path) -> None:
    store(model, tensors(model) | {GATE0: mx.zeros((12, 24))})
    refused(model, "surplus", "model.layers.0.mlp")


def test_nothing_is_read_before_all_is_accounted_for(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tensors(model)
    del weights[Q0]
    store(model, weights)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(mx, "load", fail)
    refused(model, Q0)


def test_another_tools_packing_without_its_description_gets_a_hint(model: Path) -> None:
    weights = tensors(model)
    packed = {Q0.replace("weight", "qweight"): mx.zeros((8, 8), mx.int32)}
    del weights[Q0]
    store(model, weights | packed)
    hint = refused(model).partition("\nhint: ")[2]
    assert "quantization_config" in hint and "convert" not in hint  # it couldn't read it either


def test_progress_counts_to_the_end(sharded: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_network(sharded, on_progress=lambda done, total: seen.append((done, total)))
    size = sum(len(split(sharded, path.name)[1]) for path in sharded.glob("*.safetensors"))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {total for _, total in seen} == {size}
    assert seen[-1] == (size, size)
    assert len(seen) >= 3  # a step for each layer at least, so that a bar moves


def test_a_config_is_needed(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_network(model)


@pytest.mark.parametrize("when", ["before MLX opens it", "while it is read"])
def test_a_file_cut_short_after_its_header_was_read(
    when: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = model / "model.safetensors"
    size, begin = file.stat().st_size, load._Reader.begin

    def cut(reader: load._Reader, layer: load._Layer) -> None:
        if when == "while it is read":
            begin(reader, layer)
        with file.open("r+b") as stream:
            stream.truncate(size - size // 3)
        if when == "before MLX opens it":
            begin(reader, layer)

    monkeypatch.setattr(load._Reader, "begin", cut)
    with pytest.raises(CheckpointError, match="can't be read"):
        load_network(model)
