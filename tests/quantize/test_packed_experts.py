"""Mixtures in every packing: experts one by one, routers and heads too, and all in one array."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.quantize.pack import packed_blocks
from tests.quantize import foreign, packed
from tests.quantize.build import MOE, Array, Stored, bf16, from_bf16, write_model
from tests.quantize.conftest import convert
from tests.quantize.test_formats import AWQ, CASES, CT4, FP8, GPTQ, INT8, NF4, rows_of, two_d
from tests.quantize.test_formats import hf_names as stored_names

EXPERTS = MOE | {"num_experts": 8}
"""Eight, so that a router's outputs fill GPTQ's words."""


def model(folder: Path, block: dict[str, Any], tensors: dict[str, Stored], **changes: Any) -> Path:
    config = EXPERTS | {"quantization_config": block} | changes
    return write_model(folder, config, tensors, shards=2)


def assert_dense(folder: Path, dense: dict[str, Array]) -> None:
    """Every weight that the converter reads is the float reference, bit by bit."""
    seen = set()
    for weight in open_source(folder).weights:
        names = stored_names(weight.path, 8)
        want = np.concatenate([two_d(dense[name]) for name in names])
        got = np.concatenate([rows_of(part, mx.float32) for part in weight.parts])
        assert np.array_equal(got, want), weight.path
        seen |= set(names)
    assert seen == set(dense)


@pytest.mark.parametrize("case", CASES)
def test_single_experts_in_every_packing(tmp_path: Path, case: str) -> None:
    _, block, pack = CASES[case]
    tensors, dense = foreign.model(EXPERTS, pack)
    assert_dense(model(tmp_path, block, tensors), dense)


# transformers 4 packs a router as any other linear layer; GPTQModel and AutoRound a head if asked.
ALL = r"_proj|mlp\.gate|lm_head"


@pytest.mark.parametrize(
    ("block", "pack"),
    [
        (NF4, packed.nf4),
        (NF4, partial(packed.nf4, double=True)),
        (INT8, partial(packed.int8, name="SCB")),
        (GPTQ | {"lm_head": True}, partial(foreign.gptq, act_order=True)),
        (AWQ, foreign.awq),
        (FP8, foreign.fp8),
        (CT4, packed.words),
    ],
    ids=["nf4", "nf4, double", "int8", "gptq", "awq", "fp8", "compressed"],
)
def test_a_router_and_a_head_that_are_packed_too(tmp_path: Path, block: Any, pack: Any) -> None:
    tensors, dense = foreign.model(EXPERTS, pack, packs=ALL)
    assert "model.layers.0.mlp.gate.weight" not in tensors or block in (NF4, INT8, FP8)
    assert_dense(model(tmp_path, block, tensors), dense)


def together(dense: dict[str, Array], layer: int, kind: str) -> Array:
    """The experts of a layer as transformers 5 holds them: ``[E, 2 I, H]`` or ``[E, H, I]``."""
    at = f"model.layers.{layer}.mlp.experts"

    def one(number: int, projection: str) -> Array:
        return dense[f"{at}.{number}.{projection}.weight"]

    if kind == "down_proj":
        return np.stack([one(n, kind) for n in range(8)])
    return np.stack([np.concatenate([one(n, "gate_proj"), one(n, "up_proj")]) for n in range(8)])


def nf4_together(double: bool) -> tuple[dict[str, Stored], dict[str, Array]]:
    """A mixture of which bitsandbytes' `replace_parameter_4bit` packed the experts."""
    pack = partial(packed.nf4, double=double)
    tensors, dense = foreign.model(EXPERTS, pack)
    tensors = {name: x for name, x in tensors.items() if ".experts." not in name}
    rng, inner, width = np.random.default_rng(3), 64, 128
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"
        for kind, shape in (("gate_up_proj", (2 * inner, width)), ("down_proj", (width, inner))):
            stored, flat = pack(rng, (8 * shape[0], shape[1]), stated=[8, *shape])
            whole = flat.reshape(8, *shape)
            tensors |= {
                f"{at}.{kind}{name.removeprefix('weight')}": x for name, x in stored.items()
            }
            for n in range(8):
                halves = {"down_proj": whole[n]}
                if kind == "gate_up_proj":
                    halves = {"gate_proj": whole[n][:inner], "up_proj": whole[n][inner:]}
                dense |= {f"{at}.{n}.{name}.weight": x for name, x in halves.items()}
    return tensors, dense


@pytest.mark.parametrize("double", [False, True], ids=["nf4", "nf4, double"])
def test_experts_that_bitsandbytes_packed_in_one_array(tmp_path: Path, double: bool) -> None:
    tensors, dense = nf4_together(double)
    assert_dense(model(tmp_path, NF4, tensors), dense)


def test_any_rows_of_them_and_the_blocks_of_a_conversion(tmp_path: Path) -> None:
    tensors, dense = nf4_together(double=True)
    source = open_source(model(tmp_path / "in", NF4, tensors))
    for kind in ("gate_proj", "up_proj", "down_proj"):
        weight = next(
            w for w in source.weights if w.path == f"model.layers.1.mlp.switch_mlp.{kind}"
        )
        whole = two_d(together(dense, 1, kind)) if kind == "down_proj" else None
        if whole is None:
            whole = np.concatenate([dense[name] for name in stored_names(weight.path, 8)])
        for start, stop in [(0, 1), (63, 65), (60, 260), (100, 128), (511, 512)]:
            got = np.array(weight.parts[0].open(mx.float32)(start, stop))
            assert np.array_equal(got, whole[start:stop]), (kind, start, stop)
        blocks = [block for (block,) in packed_blocks(weight, None, mx.float32)]
        assert np.array_equal(np.array(mx.concatenate(blocks)), whole)
    convert(tmp_path / "in", tmp_path / "out", "8bit")
    load_network(tmp_path / "out")


@pytest.mark.parametrize("block", [NF4, INT8], ids=["nf4", "int8"])
def test_experts_that_bitsandbytes_left_in_floats(tmp_path: Path, block: dict[str, Any]) -> None:
    """It packs linear layers, and transformers 5's experts are none (bitsandbytes#1849)."""
    pack = packed.nf4 if block is NF4 else partial(packed.int8, name="SCB")
    tensors, dense = foreign.model(EXPERTS, pack, packs=r"self_attn\.\w_proj")
    tensors = {name: x for name, x in tensors.items() if ".experts." not in name}
    for layer in range(2):
        for kind in ("gate_up_proj", "down_proj"):
            whole = bf16(together(dense, layer, kind))
            tensors[f"model.layers.{layer}.mlp.experts.{kind}"] = whole
    assert_dense(model(tmp_path, block, tensors), dense)


ARRAYS = {
    "gptq": (GPTQ, ("qweight", "qzeros", "scales", "g_idx")),
    "awq": (AWQ, ("qweight", "qzeros", "scales")),
    "compressed-tensors": (CT4, ("weight_packed", "weight_scale", "weight_shape")),
}


@pytest.mark.parametrize("join", [".", "_"])
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_experts_that_no_tool_is_known_to_write(
    tmp_path: Path, case: str, join: str
) -> None:
    block, names = ARRAYS[case]
    tensors, _ = foreign.model(EXPERTS, packed.words, packs="nothing")
    tensors = {name: x for name, x in tensors.items() if ".experts." not in name}
    for kind in ("gate_up_proj", "down_proj"):
        for name in names:
            at = f"model.layers.0.mlp.experts.{kind}{join}{name}"
            tensors[at] = np.zeros((8, 4, 4), np.int32)
    with pytest.raises(CheckpointError, match=f"in one array.*not so of {case}"):
        open_source(model(tmp_path, block, tensors))


def test_a_packing_that_config_json_calls_by_another_name(tmp_path: Path) -> None:
    tensors, _ = foreign.model(EXPERTS, foreign.gptq)
    with pytest.raises(CheckpointError, match=r"says bitsandbytes.*of another packing"):
        open_source(model(tmp_path, NF4, tensors))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [8, 127, 128]}, "2032 values"),
        ({"shape": [8, 128]}, "16 values"),
        ({"shape": [4, 2, 128, 128]}, "shape and blocksize"),
        ({"shape": [8, 128, 2**40]}, "shape and blocksize"),
        ({"shape": [1024, 1, 128]}, "as many of gate as of up"),
        ({"blocksize": 0}, "shape and blocksize"),
    ],
    ids=str,
)
def test_a_state_that_lies(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    tensors, _ = nf4_together(double=False)
    name = "model.layers.0.mlp.experts.gate_up_proj.quant_state.bitsandbytes__nf4"
    tensors[name] = packed.state_of({**packed.said_of(tensors[name]), **change})
    with pytest.raises(CheckpointError, match=said):
        open_source(model(tmp_path, NF4, tensors))


def test_the_reference_is_what_is_stored() -> None:
    """The helper that stacks experts agrees with the rounding of a plain checkpoint."""
    _, dense = foreign.model(EXPERTS, packed.nf4, packs="nothing")
    whole = together(dense, 0, "gate_up_proj")
    assert whole.shape == (8, 128, 128)
    assert np.array_equal(from_bf16(bf16(whole)), whole)
