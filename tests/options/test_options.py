"""The options of a turn by the types of their values: what counts as a number, a word, a bool."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import CacheFormat, GenerationOptions, check_context
from qwen3_mlx.options.auto_budget import AutoBudget

WHOLE = {
    "thinking_budget": 5,
    "max_tokens": 5,
    "top_k": 5,
    "min_tokens": 5,
    "logprobs": 5,
    "prefill_chunk": 5,
    "seed": 5,
}
BROKEN = {
    "temperature": 0.5,
    "top_p": 0.5,
    "min_p": 0.5,
    "presence_penalty": 0.5,
    "repetition_penalty": 0.5,
    "frequency_penalty": 0.5,
}
OTHERS = {"thinking", "special_tokens_in_text", "stop", "stop_in", "stop_text"} | {
    *("schema", "regex", "tool_choice", "logit_bias")
}


def test_every_option_is_walked() -> None:
    assert {f.name for f in fields(GenerationOptions)} == {*WHOLE, *BROKEN, *OTHERS}


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint32])
@pytest.mark.parametrize("name", WHOLE)
def test_numpys_whole_numbers_are_plain_ones(name: str, kind: Any) -> None:
    value = getattr(GenerationOptions(**{name: kind(5)}), name)
    assert value == 5 and type(value) is int


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, Fraction])
@pytest.mark.parametrize("name", BROKEN)
def test_numpys_floats_are_plain_ones(name: str, kind: Any) -> None:
    value = getattr(GenerationOptions(**{name: kind(0.5)}), name)
    assert value == 0.5 and type(value) is float
    assert getattr(GenerationOptions(**{name: np.int32(1)}), name) == 1


def test_other_numbers_are_plain_ones_too() -> None:
    assert check_context(np.int64(100)) == 100 and type(check_context(np.int64(100))) is int
    held = CacheFormat(window=np.int64(64), sinks=np.uint8(2))
    assert (type(held.window), type(held.sinks)) == (int, int)
    assert type(CacheFormat(np.int64(8)).bits) is int
    auto = AutoBudget(np.int32(9), certainty=np.float32(0.5))
    assert (type(auto.cap), type(auto.certainty)) == (int, float)
    bias = GenerationOptions(logit_bias={np.int64(3): np.float32(0.5)}).logit_bias
    assert bias == {3: 0.5} and [type(part) for one in bias.items() for part in one] == [int, float]


@pytest.mark.parametrize("wrong", [5.0, np.float32(5), "5", b"5", [5], True, np.True_, {}])
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_whole_number_is_refused_as_that(name: str, wrong: Any) -> None:
    if name == "thinking_budget" and isinstance(wrong, str | dict):
        return  # which say a budget
    with pytest.raises(OptionError, match="expected a whole number, ") as error:
        GenerationOptions(**{name: wrong})
    assert error.value.what == name


@pytest.mark.parametrize("wrong", ["0.5", b"1", [0.5], True, np.True_, float("nan"), 10**400, {}])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_number_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(OptionError, match="expected a number from ") as error:
        GenerationOptions(**{name: wrong})
    assert error.value.what == name


@pytest.mark.parametrize(("name", "edges"), [
    ("repetition_penalty", "1e30 1e-30"), ("top_p", "1e-30 1.1"), ("temperature", "-1 101"),
])  # fmt: skip
def test_the_range_that_is_said_is_the_one_that_holds(name: str, edges: str) -> None:
    for edge in edges.split():
        with pytest.raises(OptionError) as error:
            GenerationOptions(**{name: float(edge)})
        low, high = (float(n) for n in str(error.value.expected).split() if n[0].isdigit())
        assert not low <= float(edge) <= high
        for value in (low, high):
            GenerationOptions(**{name: value})


@pytest.mark.parametrize("wrong", ["no", "false", "", 0, 1, [], b"", np.False_])
@pytest.mark.parametrize("name", ["thinking", "special_tokens_in_text"])
def test_only_a_bool_says_yes_or_no(name: str, wrong: Any) -> None:
    with pytest.raises(OptionError, match="expected True") as error:
        GenerationOptions(**{name: wrong})
    assert error.value.what == name
    for right in (True, False):
        assert getattr(GenerationOptions(**{name: right}), name) is right


@pytest.mark.parametrize("wrong", [5, b"text", ["text"], True])
@pytest.mark.parametrize("name", ["stop_text", "stop_in", "regex", "tool_choice", "logit_bias"])
def test_words_are_texts(name: str, wrong: Any) -> None:
    with pytest.raises(OptionError) as error:
        GenerationOptions(**{name: wrong})
    assert error.value.what == name and error.value.expected


def test_a_token_id_of_thousands_of_digits_is_no_token() -> None:
    with pytest.raises(OptionError, match="logit_bias"):
        GenerationOptions(logit_bias={"9" * 5000: 1.0})  # type: ignore[dict-item]
