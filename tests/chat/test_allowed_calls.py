"""Turns that may call tools or not: which ones may be called, and what strict ones are given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwen3_mlx.chat.plain import explicit
from qwen3_mlx.errors import OptionError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text.call_grammar import CallChoice, call_grammar
from qwen3_mlx.text.grammar import Match
from tests import scripted, tiny

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rom"]}},
    "required": ["city"],
    "additionalProperties": False,
}
STRICT: list[dict[str, Any]] = [
    {"name": "weather", "parameters": CITY, "strict": True},
    {"name": "now"},
]
FREE: list[dict[str, Any]] = [{"name": "weather", "parameters": CITY}, {"name": "now"}]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 200, "thinking": False}


def called(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": [{"name": name} for name in names]}


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


SAID = [
    "A text alone, with <b> and {}.",
    called("now"),
    f"First {called('weather', city='Oslo')}\n{called('now')} and so on.",
]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("thinking", [False, True])
def test_what_is_allowed_is_said_as_it_is(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, said: str, thinking: bool
) -> None:
    thought = "<think>\nHm.\n</think>\n\n" if thinking else ""
    scripted.say(monkeypatch, model, thought + said)
    options = GREEDY | {"thinking": thinking}
    free = model.generate("Do.", tools=FREE, **options)
    assert free.finish_reason == "stop" and free.answer.startswith(said.partition("<tool_")[0][:9])
    for tools, choice in ((STRICT, None), (FREE, allowed("weather", "now"))):
        held = model.generate("Do.", tools=tools, tool_choice=choice, **options)
        assert (held.thinking, held.answer, held.finish_reason) == (
            *(free.thinking, free.answer),
            "stop",
        )
        calls = [(call.name, call.arguments) for call in held.tool_calls]
        assert calls == [(call.name, call.arguments) for call in free.tool_calls]


def test_a_strict_tool_gets_what_its_schema_says(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    scripted.say(monkeypatch, model, "Well. " + called("weather", city="Paris"))
    free = model.generate("Do.", tools=FREE, **GREEDY)
    assert [call.arguments for call in free.tool_calls] == [{"city": "Paris"}]
    held = model.generate("Do.", tools=STRICT, **GREEDY)
    assert held.answer.startswith("Well.") and held.tool_calls[0].name == "weather"
    assert held.tool_calls[0].arguments["city"] in ("Oslo", "Rom")


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_allowed_tools_are_called(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, mode: str
) -> None:
    scripted.say(monkeypatch, model, called("weather", city="Oslo"))
    options = GREEDY | {"tool_choice": allowed("now", mode=mode)}
    found = model.generate("Do.", tools=FREE, **options)
    assert {call.name for call in found.tool_calls} == {"now"}
    scripted.say(monkeypatch, model, "No call.")
    found = model.generate("Do.", tools=FREE, **options)
    assert bool(found.tool_calls) is (mode == "required")
    assert mode == "required" or found.answer == "No call."


@pytest.mark.parametrize("thinking", [False, True])
def test_none_is_called_though_the_prompt_offers_them(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, thinking: bool
) -> None:
    thought = "<think>\nHm.\n</think>\n\n" if thinking else ""
    options = GREEDY | {"tool_choice": "none", "thinking": thinking}
    prompts = set()
    for said in ("No call <b>.", called("now"), "First " + called("weather", city="Rom")):
        scripted.say(monkeypatch, model, thought + said)
        for tools in (FREE, STRICT):
            found = model.generate("Do.", tools=tools, **options)
            assert found.tool_calls == () and "<tool_call>" not in found.answer
            assert "<tool_call>" in said or found.answer == said
        prompts.add(found.stats.prompt_tokens)
    auto = model.generate("Do.", tools=STRICT, **options | {"tool_choice": "auto"})
    assert prompts == {auto.stats.prompt_tokens}
    bare = model.generate("Do.", **options)
    assert bare.tool_calls == () and bare.stats.prompt_tokens < auto.stats.prompt_tokens
    held = model.generate("Do.", tools=FREE, schema=CITY, **options)
    assert json.loads(held.answer)["city"] in ("Oslo", "Rom")


def test_a_schema_beside_allowed_tools(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    options = GREEDY | {"tool_choice": allowed("now"), "schema": CITY}
    for said in (called("now"), '{"city": "Rom"}', "A text.", called("weather", city="Rom")):
        scripted.say(monkeypatch, model, said)
        found = model.generate("Do.", tools=FREE, **options)
        calls = [call.name for call in found.tool_calls]
        assert calls == ["now"] * len(calls) and (calls or "city" in json.loads(found.answer))
        assert found.answer == said or said[0] != "{"


def fits(model: Qwen3, said: str, by_token: bool, coder: bool = False) -> bool:
    """Whether an answer that may call a strict tool may be `said`, and end there."""
    tokens = model.tokenizer
    grammar = call_grammar(STRICT, tokens, CallChoice(), coder=coder)
    assert by_token is ("before" not in grammar.rules)
    match: Match = model.runtime.vocabulary.match(grammar)
    ids = tokens.encode(said) if by_token else tokens.encode_letters(said)
    if not all(match.take(token) for token in ids):
        return False
    end = next(iter(model.runtime.markers([]).eos))
    return bool(match.mask()[end >> 3] >> (end & 7) & 1)


@pytest.mark.parametrize("by_token", [True, False])
def test_no_call_gets_past_the_grammar(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, by_token: bool
) -> None:
    """A call is held to its schema whether a token opens it or letters, and wherever it stands."""
    if not by_token:
        for name in ("tool_open", "tool_close"):
            monkeypatch.setattr(type(model.tokenizer), name, None, raising=False)
            monkeypatch.setitem(model.tokenizer.__dict__, name, None)
    right = called("weather", city="Rom")
    for said in ("", "a <tool", f"a{right}", f"{right}\n{right}", f"{right} b", "a < functional"):
        assert fits(model, said, by_token), said
    wrong = called("weather", city="Paris")
    for said in (wrong, f"a {wrong}", f"{right}{wrong}", called("other"), "a <function=now>"):
        assert not fits(model, said, by_token), said
    coder = "<tool_call>\n<function=weather>\n<parameter=city>\n{}\n</parameter>\n</function>\n"
    for city, want in (("Rom", True), ("Paris", False)):
        assert fits(model, coder.format(city) + "</tool_call>", by_token, coder=True) is want


def test_openais_two_shapes_are_one() -> None:
    wrapped = [{"type": "function", "function": {"name": "now"}}, {"type": "mcp"}]
    given = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": wrapped}}
    options = GenerationOptions(tool_choice=given)
    assert options.tool_choice == allowed("now")
    assert GenerationOptions(**explicit(options)) == options


@pytest.mark.parametrize(
    "choice",
    [
        allowed(), allowed("now", mode="none"), {"type": "allowed_tools"}, allowed("other"),
        {"type": "allowed_tools", "allowed_tools": 3}, allowed("now") | {"tools": "now"},
        allowed("now") | {"tools": [3]}, allowed("now") | {"tools": [{"type": "mcp"}]},
    ],
)  # fmt: skip
def test_what_allows_nothing_is_refused(model: Qwen3, choice: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="tool_choice"):
        model.generate("Do.", tools=FREE, tool_choice=choice)


def test_a_strict_schema_that_cannot_be_honoured_is_refused(model: Qwen3) -> None:
    tool = {"name": "now", "parameters": {"type": "object", "not": {}}, "strict": True}
    with pytest.raises(OptionError, match="not"):
        model.generate("Do.", tools=[tool], **GREEDY)
    assert model.generate("Do.", tools=[tool | {"strict": False}], **GREEDY | {"max_tokens": 1})
