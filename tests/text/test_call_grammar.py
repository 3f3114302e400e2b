"""Grammars of tool calls: who may be called, how often, and with which arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import qwen3_mlx
from qwen3_mlx.errors import OptionError
from qwen3_mlx.text.call_grammar import CallChoice, call_grammar
from tests.text.test_grammar import Words

DEMO = Path(qwen3_mlx.__file__).parent / "demo-tools"
ORDER = {
    "type": "object",
    "$defs": {"size": {"type": "integer", "maximum": 9}},
    "properties": {
        "count": {"$ref": "#/$defs/size"},
        "kind": {"enum": ["tea", "milk"]},
        "note": {"type": "string"},
        "code": {"type": "string", "minLength": 2, "maxLength": 3},
        "short": {"type": "string", "maxLength": 3},
        "long": {"type": ["string", "null"], "minLength": 2},
        "mixed": {"enum": ["a", 1]},
        "free": True,
    },
    "required": ["count"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "order", "parameters": ORDER}},
    {"name": "now"},
    {"name": "wait", "parameters": {"properties": {"s": {"type": "integer"}}}},
]
MUST = CallChoice(certain=True)


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(DEMO, 2048)


def hermes(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def coder(name: str, **arguments: str) -> str:
    body = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


NOW, WAIT = hermes("now"), hermes("wait", s=1)


@pytest.mark.parametrize(
    ("choice", "text", "fits"),
    [
        (CallChoice(), "Text.", True),
        (CallChoice(), f"Text. {NOW} More. {WAIT}", True),
        (MUST, "Text.", False),
        (MUST, "", False),
        (MUST, f"Text. {NOW}", False),
        (MUST, NOW, True),
        (MUST, f"{NOW}\n{WAIT}\n{NOW}", True),
        (MUST, hermes("other"), False),
        (CallChoice(certain=True, once=True), WAIT, True),
        (CallChoice(certain=True, once=True), f"{WAIT}\n{WAIT}", False),
        (CallChoice(certain=True, names=("now",)), NOW, True),
        (CallChoice(certain=True, names=("now",)), WAIT, False),
        (CallChoice(names=("wait",)), f"Text. {WAIT}", True),
        (CallChoice(names=("wait",)), f"Text. {NOW}", False),
        (CallChoice(names=("wait", "now")), f"{WAIT}{NOW}", True),
        (CallChoice(names=("wait", "now")), hermes("order", count=1), False),
    ],
)
def test_who_may_be_called_and_how_often(
    words: Words, choice: CallChoice, text: str, fits: bool
) -> None:
    grammar = call_grammar(TOOLS, words.tokenizer, choice, coder=False)
    assert words.fits(grammar, text) is fits


@pytest.mark.parametrize(
    ("call", "fits"),
    [
        (hermes("now"), True),
        (hermes("now", a=1), False),  # a tool without a schema takes no arguments
        (hermes("wait"), True),
        (hermes("wait", s=1), True),
        (hermes("wait", s="1"), False),
        (hermes("order", count=9), True),
        (hermes("order", count=10), False),
        (hermes("order", kind="tea"), False),  # count is required
        (hermes("order", count=1, kind="tea"), True),
        (hermes("order", count=1, kind="wine"), False),
    ],
)
def test_arguments_in_hermes_form(words: Words, call: str, fits: bool) -> None:
    assert words.fits(call_grammar(TOOLS, words.tokenizer, MUST, coder=False), call) is fits


@pytest.mark.parametrize(
    ("call", "fits"),
    [
        (coder("now"), True),
        (coder("now", a="1"), False),
        (coder("wait"), True),
        (coder("wait", s="1"), True),
        (coder("wait", s="one"), False),
        (coder("order", count="9"), True),
        (coder("order", count="10"), False),
        (coder("order"), False),  # count is required
        (coder("order", kind="tea"), False),
        (coder("order", count="1", kind="milk", note="x"), True),
        (coder("order", kind="milk", count="1"), False),  # in the schema's order
        (coder("order", count="1", kind="wine"), False),
        (coder("order", count="1", kind='"tea"'), False),  # a text stands without quotes
        (coder("order", count="1", note=""), True),
        (coder("order", count="1", note="two\nlines, <b>"), True),
        (coder("order", count="1", code="a"), False),
        (coder("order", count="1", code="ab"), True),
        (coder("order", count="1", code="abc"), True),
        (coder("order", count="1", code="abcd"), False),
        (coder("order", count="1", short=""), True),
        (coder("order", count="1", short="abcd"), False),
        (coder("order", count="1", long="a"), False),
        (coder("order", count="1", long="a" * 40), True),
        (coder("order", count="1", mixed="anything"), True),  # text is allowed, so any text
        (coder("order", count="1", free="{}"), True),
    ],
)
def test_arguments_in_the_coders_form(words: Words, call: str, fits: bool) -> None:
    assert words.fits(call_grammar(TOOLS, words.tokenizer, MUST, coder=True), call) is fits


def test_limits_that_are_no_lengths_do_not_count(words: Words) -> None:
    for limits in ({"minLength": -1}, {"maxLength": "3"}, {"minLength": True}, {"maxLength": 0.5}):
        schema = {"properties": {"a": {"type": "string", **limits}}}
        grammar = call_grammar(
            [{"name": "f", "parameters": schema}], words.tokenizer, MUST, coder=True
        )
        assert words.fits(grammar, coder("f", a="")) and words.fits(grammar, coder("f", a="abcd"))
    none = {"properties": {"a": {"type": "string", "maxLength": 0}}}
    grammar = call_grammar([{"name": "f", "parameters": none}], words.tokenizer, MUST, coder=True)
    assert words.fits(grammar, coder("f", a="")) and not words.fits(grammar, coder("f", a="b"))


@pytest.mark.parametrize("form", [True, False])
def test_a_keyword_without_a_meaning_here_is_passed_over_unless_the_tool_is_strict(
    words: Words, form: bool
) -> None:
    schema = {"properties": {"a": {"type": "integer", "not": {"const": 3}}}}
    tool = {"name": "f", "parameters": schema}
    text = coder("f", a="4") if form else hermes("f", a=4)
    for lenient in (tool, tool | {"strict": False}):
        assert words.fits(call_grammar([lenient], words.tokenizer, MUST, coder=form), text)
    with pytest.raises(OptionError, match="not"):
        strict = call_grammar([tool | {"strict": True}], words.tokenizer, MUST, coder=form)
        words.vocabulary.match(strict)


def test_a_name_that_is_not_on_offer_is_refused(words: Words) -> None:
    with pytest.raises(OptionError, match="got nobody, expected a tool on offer: order, now, wait"):
        choice = CallChoice(names=("now", "nobody"))
        call_grammar(TOOLS, words.tokenizer, choice, coder=False)
    with pytest.raises(OptionError, match="got f, expected a tool on offer: no tools"):
        call_grammar([], words.tokenizer, CallChoice(names=("f",)), coder=False)
