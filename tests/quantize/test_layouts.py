"""Converting what trainers and newer libraries write: the result has Qwen's layout, and loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.config import Qwen3Config
from tests.quantize.build import (
    DENSE,
    MOE,
    Array,
    all_bytes,
    bf16,
    bf16_model,
    random_weights,
    write_model,
)
from tests.quantize.conftest import convert

YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize("scaling", [{"rope_type": "default"}, YARN, YARN | {"attn_factor": 0.9}])
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=["dense", "moe"])
def test_the_result_for_transformers_5_is_one_that_loads(
    tmp_path: Path, shape: dict[str, Any], scaling: dict[str, Any]
) -> None:
    values = {key: value for key, value in shape.items() if key != "rope_theta"}
    values["rope_parameters"] = {"rope_theta": 10_000.0, **scaling}
    source = bf16_model(tmp_path / "source", values)
    convert(source, tmp_path / "out")
    _, config = load_network(tmp_path / "out")
    assert config.rope == Qwen3Config.from_dict(values).rope
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_theta"] == 10_000.0  # where older readers look


def fused(weights: dict[str, Array]) -> dict[str, Array]:
    """transformers 5's layout of the experts."""
    found = {name: x for name, x in weights.items() if ".experts." not in name}
    for mlp in {name.partition(".experts.")[0] for name in weights if ".experts." in name}:
        gate, up, down = (
            np.stack([weights[f"{mlp}.experts.{e}.{kind}_proj.weight"] for e in range(4)])
            for kind in ("gate", "up", "down")
        )
        found[f"{mlp}.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        found[f"{mlp}.experts.down_proj"] = down
    return found


@pytest.mark.parametrize("layout", ["fused", "base_model.model.", "no model."])
def test_every_layout_converts_to_the_same_bytes(tmp_path: Path, layout: str) -> None:
    plain = random_weights(MOE)
    if layout == "fused":
        others = fused(plain)
    elif layout == "no model.":
        others = {name.removeprefix("model."): x for name, x in plain.items()}
    else:
        others = {f"{layout}{name}": x for name, x in plain.items()}
    for name, weights in (("plain", plain), ("other", others)):
        source = write_model(tmp_path / name, MOE, {n: bf16(x) for n, x in weights.items()})
        convert(source, tmp_path / f"{name}-4bit")
    want, got = (all_bytes(tmp_path / f"{name}-4bit") for name in ("plain", "other"))
    for file in ("model.safetensors", "config.json"):
        assert got[file] == want[file]
