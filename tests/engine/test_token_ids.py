"""No id that a vocabulary lacks reaches MLX, which checks none."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.engine.token_ids import check_token_ids
from qwen3_mlx.errors import OptionError


@pytest.mark.parametrize("ids", [[], [0], [23], [0, 23, 5], {0: 1.0, 23: 2.0}])
def test_ids_of_the_vocabulary_pass(ids: Any) -> None:
    check_token_ids(ids, 24)


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        ([24], "24"), ([-1], "-1"), ([0, 5, 24, 25], "24"), ([3, -7, 30], "-7"),
        ([1.0], "1.0"), ([True], "True"), ([1, None], "None"), (["1", 2], "'1'"),
        ([5, True], "True"),
    ],
)  # fmt: skip
def test_the_first_wrong_one_is_named(ids: Any, wrong: str) -> None:
    with pytest.raises(OptionError) as refused:
        check_token_ids(ids, 24)
    assert refused.value.got == wrong
    assert refused.value.expected == "whole numbers from 0 to 23"


def test_an_empty_vocabulary_has_no_ids() -> None:
    check_token_ids([], 0)
    with pytest.raises(OptionError):
        check_token_ids([0], 0)
