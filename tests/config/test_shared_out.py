"""What config.json says of files that are shared out, and who may hold what."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.config.matrices import parameters, weight_shapes
from qwen3_mlx.config.share import WHOLE_NETWORK, Share
from qwen3_mlx.config.shares import Shares, is_share, several_machines_error, shares_of
from qwen3_mlx.config.stages import stages
from qwen3_mlx.errors import ConfigError, OptionError
from tests.config.test_share import config_of
from tests.configs import DENSE, read


def shared(count: int, way: str = "attention split") -> dict[str, Any]:
    files = [{"bytes": n, "digest": f"d{n}"} for n in range(count)]
    return {"count": count, "way": way, "of": "whole", "files": files}


@pytest.mark.parametrize("count", [2, 3, 16])
def test_the_block_comes_back_as_it_was_written(count: int) -> None:
    found = shares_of({"shares": shared(count)})
    assert found == Shares("attention split", "whole", tuple((n, f"d{n}") for n in range(count)))
    assert found.block() == shared(count) and found.count == count
    assert shares_of({}) is shares_of({"shares": {}}) is None


@pytest.mark.parametrize(
    "block",
    [
        *(shared(count) for count in (0, 1, 17)),
        shared(2, "by layers"),
        {"way": "pipeline", "of": "whole"},
        {"way": "pipeline", "of": "whole", "files": [3, 4]},
        shared(2) | {"files": [{"bytes": "many", "digest": "d"}] * 2},
    ],
)
def test_a_block_that_says_nothing_of_use(block: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        shares_of({"shares": block})
    assert str(caught.value).startswith("config.json: shares: got {")
    assert caught.value.hint == "take config.json from where the shares were made"


@pytest.mark.parametrize(
    ("way", "share", "option"),
    [
        ("attention split", Share(1, 3, True, False), ""),
        ("attention whole", Share(1, 3, False, False), " --attention whole"),
        ("pipeline", Share(1, 3, True, True), " --pipeline"),
    ],
)
def test_each_way_of_sharing(way: str, share: Share, option: str) -> None:
    found = shares_of({"shares": shared(3, way)})
    assert found is not None and found.share(1) == share and share.way == way
    assert found.description == f"3 machines, {way}"
    assert found.launch == f"qwen3-mlx launch --hosts A,B,C{option} chat …"
    names = [found.name(rank) for rank in range(3)]
    assert names == [f"model-share-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert all(map(is_share, names)) and not is_share("model-00001-of-00003.safetensors")


@pytest.mark.parametrize(
    ("names", "got"),
    [
        ((), "share none here"),
        (("config.json",), "share none here"),
        (("model-share-00002-of-00003.safetensors",), "share 2 of 3 here"),
        (
            [f"model-share-0000{n}-of-00010.safetensors" for n in (1, 3)],
            "share 1 and 3 of 10 here",
        ),
    ],
)
def test_one_machines_files_without_the_others(names: list[str], got: str) -> None:
    ends = (
        ", expected a whole checkpoint, or a group of machines\nhint: qwen3-mlx launch runs it;"
        " convert without --shares writes a whole one"
    )
    what = "the checkpoint is shared out to several machines: got"
    assert str(several_machines_error(names)) == f"{what} {got}{ends}"
    assert str(several_machines_error(names, "pipeline")) == f"{what} {got}, pipeline{ends}"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("layers", "size"), [(5, 1), (5, 2), (7, 3), (6, 6)])
def test_the_fullest_machine_holds_as_little_as_it_can(
    layers: int, size: int, packed: bool
) -> None:
    """Held against all ways of cutting; a layer in floats is larger than the packed ones."""
    apart = {
        f"model.layers.{layers - 1}.{name}": False for name in ("mlp.up_proj", "mlp.gate_proj")
    }
    packing = {"bits": 4, "group_size": 32} | apart if packed else None
    whole = read(
        DENSE,
        num_hidden_layers=layers,
        hidden_size=64,
        intermediate_size=96,
        head_dim=32,
        vocab_size=640,
        quantization=packing,
    )
    weights, ends = [0.0] * layers, 0.0
    for path, shape in weight_shapes(whole):
        spec = whole.quantization.spec(path) if whole.quantization else None
        bits = spec.bits + 32 / spec.group_size if spec and len(shape) > 1 else 16
        count = shape[0] * (shape[1] if len(shape) > 1 else 1) * bits
        if path.startswith("model.layers."):
            weights[int(path.split(".")[2])] += count
        else:
            ends += count

    def fullest(cuts: list[range]) -> float:
        return max(sum(weights[i] for i in c) + ends * (c.start == 0) for c in cuts)

    def all_cuts(start: int, left: int) -> list[list[range]]:
        if left == 1:
            return [[range(start, layers)]]
        stops = range(start + 1, layers - left + 2)
        return [[range(start, s), *more] for s in stops for more in all_cuts(s, left - 1)]

    found = stages(whole, size)
    assert [i for part in found for i in part] == list(range(layers)) and len(found) == size
    assert fullest(found) == min(map(fullest, all_cuts(0, size)))


def test_one_machine_holds_all_of_it() -> None:
    whole = config_of("0.6B")
    assert Share(0, 1) == WHOLE_NETWORK and WHOLE_NETWORK.config(whole) == whole
    for one in (WHOLE_NETWORK, Share(0, 1, pipeline=True)):
        assert list(one.layers(whole)) == list(range(28))
        assert one.names(whole, ["model.norm", "model.layers.3.x"]) == {
            name: name for name in ("model.norm", "model.layers.3.x")
        }
        shapes = [shape for _, shape in one.weight_shapes(whole)]
        assert sum(s[0] * (s[1] if len(s) > 1 else 1) for s in shapes) == parameters(whole)


def test_who_could_share_it_is_said() -> None:
    whole = config_of("8B")
    with pytest.raises(OptionError) as caught:
        Share(0, 3).config(whole)
    assert str(caught.value) == (
        "the model can't be shared out to 3 machines: got 6 sizes, 8 key/value heads, expected a"
        " multiple of 3\nhint: 2 or 4 or 8 machines can share it; --pipeline takes any number up"
        " to 16"
    )


@pytest.mark.parametrize(
    ("layers", "hint"),
    [
        (1, "no machines can share it"),
        (2, "no machines can share it; --pipeline takes any number up to 2"),
        (40, "no machines can share it; --pipeline takes any number up to 16"),
    ],
)
def test_a_model_that_none_can_split(layers: int, hint: str) -> None:
    whole = read(DENSE, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=layers)
    with pytest.raises(OptionError) as caught:
        Share(0, 2).config(whole)
    assert caught.value.hint == hint


@pytest.mark.parametrize("machines", [16, 17])
def test_how_many_are_tried(machines: int) -> None:
    even = {"num_attention_heads": machines, "num_key_value_heads": machines}
    sizes = {"hidden_size": machines * 64, "intermediate_size": machines * 64, "head_dim": 64}
    whole = read(DENSE, **even, **sizes)
    with pytest.raises(OptionError) as caught:
        Share(0, 5).config(whole)
    could = "2 or 4 or 8 or 16 machines can" if machines == 16 else "no machines can"
    assert str(caught.value.hint).startswith(f"{could} share it")


def test_a_pipeline_of_as_many_machines_as_layers() -> None:
    whole = read(DENSE, num_hidden_layers=3)
    assert [list(Share(r, 3, pipeline=True).layers(whole)) for r in range(3)] == [[0], [1], [2]]
    assert Share(2, 3, pipeline=True).config(whole).num_hidden_layers == 1
    with pytest.raises(OptionError) as caught:
        Share(0, 4, pipeline=True).config(whole)
    assert str(caught.value) == (
        "the model can't be shared out to 4 machines: got 3 layers, expected at least 4"
        "\nhint: a machine holds a layer at least: up to 3 can share it"
    )
