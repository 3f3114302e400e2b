"""What a sample of mutants survived: words of errors, and values at the edge of what is read."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.config import Qwen3Config, packing
from qwen3_mlx.config.share import Share
from qwen3_mlx.config.values import positive
from qwen3_mlx.errors import ConfigError, OptionError
from tests.config.test_share import config_of
from tests.configs import DENSE, YARN, new_spelling


@pytest.mark.parametrize(("faults", "got"), [(("a",), "a"), (("a", "b"), "2 sizes, a")])
def test_several_unequal_sizes_are_counted(
    faults: tuple[str, ...], got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Share, "faults", lambda share, whole: faults if share.size == 3 else ())
    with pytest.raises(OptionError) as caught:
        Share(0, 3).config(config_of("8B"))
    assert caught.value.got == got


def test_which_of_two_scalings_is_none_is_said() -> None:
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dict(new_spelling(DENSE) | {"rope_scaling": YARN})
    assert "got no scaling and Yarn(factor=" in str(caught.value)


@pytest.mark.parametrize("value", [True, False])
def test_how_the_weights_were_made_changes_nothing(value: bool) -> None:
    block = {"rope_type": "yarn", "factor": 2.0, "finetuned": value}
    with_it = Qwen3Config.from_dict(DENSE | {"rope_scaling": block})
    del block["finetuned"]
    assert with_it.rope == Qwen3Config.from_dict(DENSE | {"rope_scaling": block}).rope


READ = {("int", 2), ("int", 4), ("int", 8), ("float", 8), ("float", 4)}


@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 7, 8, 9, 16, None])
def test_which_compressed_tensors_are_read(kind: str, bits: int | None) -> None:
    weights: dict[str, Any] = {"type": kind, "num_bits": bits, "group_size": 16}
    block = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": weights}}}
    if (kind, bits) in READ:
        found = packing.read(block)
        assert found is not None and found.other_bits == {bits}
        return
    with pytest.raises(ConfigError, match="weights of 2, 4 or 8 bits"):
        packing.read(block)


def test_which_is_none_is_said_of_the_older_one_too() -> None:
    values = DENSE | {"rope_parameters": YARN | {"rope_theta": 1e6}}
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dict(values | {"rope_scaling": {"rope_type": "default"}})
    assert str(caught.value.got).startswith("Yarn(factor=")
    assert str(caught.value.got).endswith(" and no scaling")


@pytest.mark.parametrize("value", [-1, 0, True, "1", None])
def test_what_is_no_positive_number(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        positive("rope_theta", value)
    assert caught.value.expected == "a positive number"
    assert type(positive("rope_theta", 1)) is float
