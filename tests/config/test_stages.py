"""Pipelines on paper: which layers a machine holds, and what it calls them."""

from __future__ import annotations

import math

import pytest

from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.config.share import WAYS, Share, from_options
from qwen3_mlx.config.stages import stages
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit.inequality import weights_from_config, weights_of_share
from qwen3_mlx.hub.releases import SIZES
from tests.config.test_share import config_of


def machines_of(size: int) -> list[Share]:
    return [Share(rank, size, pipeline=True) for rank in range(size)]


@pytest.mark.parametrize("count", [2, 3, 5, 16])
@pytest.mark.parametrize("size", SIZES)
def test_every_tensor_lies_on_one_machine_and_none_holds_much_more(size: str, count: int) -> None:
    whole = config_of(size)
    shapes = dict(weight_shapes(whole))
    found: list[str] = []
    for share in machines_of(count):
        names = share.names(whole, shapes)
        assert {names[path]: shapes[path] for path in names} == dict(share.weight_shapes(whole))
        found += names
    assert sorted(found) == sorted(shapes)
    own = [weights_of_share(whole, share).stored_bytes for share in machines_of(count)]
    assert sum(own) == weights_from_config(whole).stored_bytes
    layer = max(sum(own[1:]) // (whole.num_hidden_layers - len(stages(whole, count)[0])), 1)
    ends = own[0] - layer * len(stages(whole, count)[0])
    assert max(own) <= max(sum(own) / count + 1.01 * layer, ends + 1.01 * layer)


def test_layers_are_counted_from_the_first_of_a_machine() -> None:
    """Dense layers among experts, and a packing of their own, go by their own place."""
    other = {"bits": 8, "group_size": 32}
    packing = {"bits": 4, "group_size": 64, "model.layers.40.self_attn.q_proj": other}
    whole = config_of(
        "30B-A3B", mlp_only_layers=[0, 40], decoder_sparse_step=2, quantization=packing
    )
    for share in machines_of(3):
        layers, own = share.layers(whole), share.config(whole)
        assert own.num_hidden_layers == len(layers)
        kinds = [own.is_moe_layer(index) for index in range(len(layers))]
        assert kinds == [whole.is_moe_layer(index) for index in layers]
        assert own.quantization is not None
        for index in layers:
            path = f"model.layers.{index - layers.start}.self_attn.q_proj"
            spec = own.quantization.spec(path)
            assert spec is not None
            assert (spec.bits == 8) == (index == 40)


def test_more_machines_than_layers_are_refused_with_the_numbers() -> None:
    with pytest.raises(
        OptionError, match="29 machines: got 28 layers, expected at least 29"
    ) as said:
        Share(0, 29, pipeline=True).config(config_of("0.6B"))
    assert "up to 28 can share it" in str(said.value)
    with pytest.raises(OptionError, match="--pipeline takes any number up to 16"):
        Share(0, 3).config(config_of("30B-A3B"))


def test_a_pipeline_splits_nothing() -> None:
    whole = config_of("8B")
    for path, shape in weight_shapes(whole):
        part = Share(1, 2, pipeline=True).part(path, shape)
        assert math.prod(own.stop - own.start for own in part) == math.prod(shape)
    assert Share(0, 1, pipeline=True).layers(whole) == range(36)


def test_ways_have_names() -> None:
    assert [Share(0, 2, *values).way for values in WAYS.values()] == [*WAYS]
    assert from_options(0, 2, "whole", False).way == "attention whole"
    assert from_options(1, 2, "split", True).way == "pipeline"
    with pytest.raises(OptionError, match="--pipeline and --attention"):
        from_options(0, 2, "whole", True)
    with pytest.raises(OptionError, match="expected split or whole"):
        from_options(0, 2, "half", False)
