"""Tool results in another order than their calls: a template can't tell whose they are."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from qwen3_mlx.text import normalise

USER = {"role": "user", "content": "hi"}


def calls(*ids: str | None, **more: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": {}}
    asked = [{"id": id, "type": "function", "function": function} for id in ids]
    return {"role": "assistant", "content": "", "tool_calls": asked} | more


def results(ids: str) -> list[dict[str, Any]]:
    return [{"role": "tool", "content": id.upper(), "tool_call_id": id} for id in ids]


def order(*messages: dict[str, Any]) -> str:
    """The results' texts, in their order; other messages are dots."""
    given = copy.deepcopy(messages)
    found = normalise(list(messages))
    assert messages == given and len(found) == len(messages)
    return "".join(one["content"] if one["role"] == "tool" else "." for one in found)


@pytest.mark.parametrize("ids", [*map("".join, itertools.permutations("abc"))])
def test_results_come_in_the_order_of_their_calls(ids: str) -> None:
    assert order(USER, calls("a", "b", "c"), *results(ids)) == "..ABC"
    again = [calls("a", "b", "c"), *results(ids)]
    assert order(USER, *again, calls("c", "a"), *results("ac"), USER) == "..ABC.CA."
    apart = [calls("a"), calls("b", "c", content="so")]
    assert order(USER, *apart, *results(ids)) == "...ABC", "one answer in two messages"


def test_some_results_are_ordered_too() -> None:
    assert order(USER, calls("a", "b", "c"), *results("ca")) == "..AC"


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        (calls("a", "b"), "bx"), (calls("a", "b"), "bab"), (calls("a", "a"), "ba"),
        (calls("a", None), "xa"), (calls(), "ba"),
    ],
)  # fmt: skip
def test_results_that_name_no_call_stay_where_they_are(asked: dict[str, Any], ids: str) -> None:
    assert order(USER, asked, *results(ids)) == f"..{ids.upper()}"


def test_results_without_ids_stay_where_they_are() -> None:
    bare: list[dict[str, Any]] = [{"role": "tool", "content": text} for text in "BA"]
    assert order(USER, calls("a", "b"), *bare) == "..BA"
    assert order(USER, calls("a", "b"), USER, *results("ba")) == "...BA"
    assert order(*results("ba")) == "BA"
