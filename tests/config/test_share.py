"""A machine's part of every tensor, for every published shape; unequal parts are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import parameters, weight_shapes
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit.inequality import weights_from_config
from qwen3_mlx.hub.releases import SIZES


def config_of(size: str, **changes: object) -> Qwen3Config:
    packing = {"quantization": {"bits": 4, "group_size": 64}}
    return Qwen3Config.from_dict(SIZES[size].config() | packing | changes)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("machines", [2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_the_parts_are_the_local_network_s_and_make_the_whole(
    size: str, machines: int, attention: bool
) -> None:
    whole = config_of(size)
    local = dict(weight_shapes(Share(0, machines, attention).config(whole)))
    for path, shape in weight_shapes(whole):
        shares = [Share(rank, machines, attention) for rank in range(machines)]
        parts = [share.part(path, shape) for share in shares]
        for part in parts:
            assert tuple(own.stop - own.start for own in part) == local[path]
        split = shares[0].split(path)
        if split == "whole":
            assert parts.count(parts[0]) == len(parts)
            continue
        axis = len(shape) - (2 if split == "rows" else 1)
        edges = [(part[axis].start, part[axis].stop) for part in parts]
        assert edges[0][0] == 0
        assert edges[-1][1] == shape[axis]
        assert all(a[1] == b[0] for a, b in pairwise(edges))


@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_are_a_share_and_what_is_whole(size: str) -> None:
    whole = config_of(size)
    all_of_it = weights_from_config(whole).stored_bytes
    replicated = sum(
        math.prod(shape) * (0.5625 if len(shape) > 1 else 2)
        for path, shape in weight_shapes(whole)
        if Share(0, 2).split(path) == "whole"
    )
    for machines in (2, 4):
        mine = weights_from_config(Share(1, machines).config(whole)).stored_bytes
        assert mine == pytest.approx((all_of_it - replicated) / machines + replicated, rel=1e-6)
    assert all_of_it > 0.5 * parameters(whole)


@pytest.mark.parametrize(
    ("size", "machines", "changes", "said"),
    [
        ("30B-A3B", 3, {}, "4 key/value heads"),
        ("235B-A22B", 8, {}, "4 key/value heads"),
        ("8B", 16, {}, "8 key/value heads"),
        (
            "30B-A3B",
            4,
            {"quantization": {"bits": 4, "group_size": 128}},
            "6 groups of 128 in a row of down_proj",
        ),
        ("8B", 2, {"intermediate_size": 12289}, "12289 rows of gate_proj"),
    ],
)
def test_unequal_parts_are_refused_with_the_numbers(
    size: str, machines: int, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        Share(0, machines).config(config_of(size, **changes))
    assert said in str(caught.value)
    assert f"{machines} machines" in str(caught.value)
    assert "hint: " in str(caught.value)


def test_only_what_exists_must_be_divided() -> None:
    """A dense feed-forward size of a network whose layers are all experts, and one machine."""
    whole = config_of("30B-A3B", intermediate_size=6143)
    assert Share(1, 2).config(whole).intermediate_size == 6143
    assert Share(0, 1).config(whole) == whole
    sparse = config_of("30B-A3B", mlp_only_layers=[0])
    assert Share(1, 2).config(sparse).intermediate_size == 3072


def test_whole_attention_needs_no_heads() -> None:
    local = Share(0, 3, attention=False).config(replace(config_of("8B"), intermediate_size=12288))
    assert local.num_key_value_heads == 8
    assert local.intermediate_size == 4096
