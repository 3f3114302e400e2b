"""What is known of the published sizes, and what none of them has."""

from __future__ import annotations

import pytest

from qwen3_mlx.config import Qwen3Config, matrices, packing
from qwen3_mlx.errors import ConfigError
from qwen3_mlx.hub.releases import SIZES


def test_the_active_parameters_are_the_published_ones() -> None:
    for size, billions in (("30B-A3B", 3.3), ("235B-A22B", 22), ("0.6B", 0.6)):
        config = Qwen3Config.from_dict(SIZES[size].config())
        assert round(matrices.active_parameters(config) / 1e9, 1) == pytest.approx(billions, 0.05)


def test_a_position_in_sections_is_refused_with_what_may_stand_there() -> None:
    block = {"rope_type": "default", "mrope_section": [16]}
    with pytest.raises(ConfigError, match="expected nothing: Qwen3 rotates whole"):
        Qwen3Config.from_dict(SIZES["0.6B"].config() | {"rope_scaling": block})


ROUND = {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"}
AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}


def test_packings_at_their_bounds() -> None:
    """Each condition alone decides."""
    assert packing.read({"quant_method": "fp8", "weight_block_size": [1, 128]}) is not None
    assert packing.read(AWQ) is not None
    refused: list[dict[str, object]] = [
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        AWQ | {"bits": 8},
        AWQ | {"version": "marlin"},
        AWQ | {"zero_point": False},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": True},
    ]
    for block in refused:
        with pytest.raises(ConfigError):
            packing.read(block)
    rules = {"lm_head": {"bits": 16}, "model.layers.0.mlp.up_proj": {"bits": 8}}
    found = packing.read(ROUND | {"extra_config": rules})
    assert found is not None and found.other_bits == {8}
