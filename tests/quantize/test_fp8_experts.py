"""transformers 5's FP8 experts, packed in one array a layer: the same as one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats import open_source
from tests.quantize import foreign
from tests.quantize.build import MOE, Array, Codes8, Stored, all_bytes, write_model
from tests.quantize.conftest import convert

BLOCK = (32, 64)
SIZES = {"blocks": BLOCK, "rows": (1, 10**6), "experts": (10**6, 10**6)}


def packer(high: int, wide: int) -> Any:
    """FP8 with a scale for each `high` rows and `wide` columns."""

    def pack(rng: np.random.Generator, shape: tuple[int, int]) -> foreign.Any:
        codes = foreign.random_codes(rng, shape)
        grid = -(-shape[0] // high), -(-shape[1] // wide)
        scale = (rng.uniform(0.5, 2.0, grid) * 1e-3).astype(np.float32)
        return {"weight": Codes8(codes), "weight_scale_inv": scale}, np.zeros(shape, np.float32)

    return pack


def bits(x: Stored) -> Array:
    return x.bits if isinstance(x, Codes8) else x  # type: ignore[return-value]  # no bfloat16


def in_one_array(tensors: dict[str, Stored], name: str) -> dict[str, Stored]:
    """The experts as transformers 5 stores them, scales under `name`."""
    found = {key: x for key, x in tensors.items() if ".experts." not in key}
    for path in {key.partition(".experts.")[0] for key in tensors if ".experts." in key}:

        def stack(kind: str, of: str, path: str = path) -> Array:
            return np.stack(
                [bits(tensors[f"{path}.experts.{n}.{kind}_proj.{of}"]) for n in range(4)]
            )

        for of, suffix in (("weight", ""), ("weight_scale_inv", name)):
            wrap = Codes8 if of == "weight" else np.asarray
            gate, up = stack("gate", of), stack("up", of)
            both = gate if gate[0].size == 1 else np.concatenate([gate, up], axis=1)
            found[f"{path}.experts.gate_up_proj{suffix}"] = wrap(both)
            found[f"{path}.experts.down_proj{suffix}"] = wrap(stack("down", of))
    return found


@pytest.fixture
def models(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A checkpoint with single experts, and the same with all of a layer in one array."""
    size, name = request.param
    high, wide = SIZES[size]
    block = {"weight_block_size": list(BLOCK)} if size == "blocks" else {}
    config = MOE | {"quantization_config": {"quant_method": "fp8", **block}}
    tensors, _ = foreign.model(config, packer(high, wide))
    if size == "experts":  # gate and up have one scale
        for key in [key for key in tensors if "up_proj.weight_scale_inv" in key]:
            tensors[key] = tensors[key.replace("up_proj", "gate_proj")]
    single = write_model(tmp_path / "single", config, tensors)
    return single, write_model(tmp_path / "packed", config, in_one_array(tensors, name), shards=2)


NAMES = [("blocks", "_scale_inv"), ("blocks", ".weight_scale_inv"), ("rows", "_scale")]
NAMES += [("experts", "_scale_inv")]


@pytest.mark.parametrize("models", NAMES, indirect=True, ids=map("".join, NAMES))
def test_they_convert_to_the_same_bytes(models: tuple[Path, Path], tmp_path: Path) -> None:
    sources = [open_source(model) for model in models]
    assert [len(weight.parts) for weight in sources[0].weights] == [
        len(weight.parts) for weight in sources[1].weights
    ]
    for model in models:
        convert(model, tmp_path / f"{model.name}-4bit")
    single, packed = (all_bytes(tmp_path / f"{model.name}-4bit") for model in models)
    assert packed["model.safetensors"] == single["model.safetensors"]
    load_network(tmp_path / "packed-4bit")


def damaged(folder: Path, change: Any, block: tuple[int, int] = BLOCK, inner: int = 64) -> str:
    packing = {"quant_method": "fp8", "weight_block_size": list(block)}
    config = MOE | {"quantization_config": packing, "moe_intermediate_size": inner}
    tensors, _ = foreign.model(config, packer(*block))
    packed = in_one_array(tensors, "_scale_inv")
    change(packed)
    write_model(folder, config, packed)
    with pytest.raises(CheckpointError) as caught:
        open_source(folder)
    return str(caught.value)


FIRST = "model.layers.0.mlp.experts"


def test_scales_that_are_missing_or_shared_by_gate_and_up(tmp_path: Path) -> None:
    def lose(tensors: dict[str, Stored]) -> None:
        del tensors[f"{FIRST}.gate_up_proj_scale_inv"]

    def cut(tensors: dict[str, Stored]) -> None:
        scale = tensors[f"{FIRST}.gate_up_proj_scale_inv"]
        tensors[f"{FIRST}.gate_up_proj_scale_inv"] = bits(scale)[:, :3]

    def lose_experts(tensors: dict[str, Stored]) -> None:
        tensors[f"{FIRST}.down_proj_scale_inv"] = bits(tensors[f"{FIRST}.down_proj_scale_inv"])[:3]

    def leave(tensors: dict[str, Stored]) -> None:
        pass

    missing = "the scale of its F8_E4M3 codes: got nothing"
    assert missing in damaged(tmp_path / "lost", lose)
    assert missing in damaged(tmp_path / "cut", cut)
    assert missing in damaged(tmp_path / "three", lose_experts)
    # gate's 40 rows end within a block of 48, and there are two: halves would fit, and be wrong
    assert missing in damaged(tmp_path / "within", leave, (48, 64), 40)


def test_a_config_without_the_packing_is_named(tmp_path: Path) -> None:
    tensors, _ = foreign.model(MOE, packer(*BLOCK))
    write_model(tmp_path, MOE, in_one_array(tensors, "_scale_inv"))
    with pytest.raises(CheckpointError, match="lacks the quantization_config"):
        open_source(tmp_path)
