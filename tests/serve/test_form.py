"""Forms of answers over HTTP: every name in every dialect, streamed or not, thinking or not."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from tests.serve.asking import ask
from tests.serve.server import Json, Server

SCHEMA: Json = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTION: Json = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
NAMED: Json = {"name": "answer", "strict": True, "schema": SCHEMA}
FORMS: list[tuple[str, Json]] = [
    ("chat", {"response_format": {"type": "json_schema", "json_schema": NAMED}}),
    ("chat", {"response_format": {"type": "json_object"}}),
    ("chat", {"guided_json": SCHEMA}),
    ("chat", {"structured_outputs": {"json": json.dumps(SCHEMA)}}),
    ("chat", {"structured_outputs": {"json": SCHEMA, "choice": None, "disable_fallback": False}}),
    ("responses", {"text": {"format": {"type": "json_schema", **NAMED}}}),
    ("responses", {"text": {"format": {"type": "json_object"}}}),
    ("messages", {"output_format": {"type": "json_schema", "schema": SCHEMA}}),
    ("messages", {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
]
THINKING = [{"thinking": False}, {"thinking_budget": 12}, {}]


def body(dialect: str, **more: Any) -> Json:
    said = {"input": "Where?"} if dialect == "responses" else {
        "messages": [{"role": "user", "content": "Where?"}]
    }  # fmt: skip
    limit = "max_output_tokens" if dialect == "responses" else "max_tokens"
    return {"model": "m", limit: 600, "temperature": 1.2, "seed": 3, **said, **more}


def tools(dialect: str) -> Json:
    one: Json = {"type": "function", "function": FUNCTION}
    if dialect == "responses":
        one = {"type": "function", **FUNCTION}
    if dialect == "messages":
        one = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
    return {"tools": [one]}


def answer(dialect: str, got: Json) -> tuple[str, list[tuple[str, Any]]]:
    """The text and the calls of a whole answer."""
    if dialect == "chat":
        message = got["choices"][0]["message"]
        calls = [call["function"] for call in message.get("tool_calls", [])]
        return message["content"] or "", [(c["name"], json.loads(c["arguments"])) for c in calls]
    if dialect == "messages":
        blocks = got["content"]
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        return text, [(b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
    parts = [part for item in got["output"] for part in item.get("content") or []]
    text = "".join(part["text"] for part in parts if part["type"] == "output_text")
    calls = [item for item in got["output"] if item["type"] == "function_call"]
    return text, [(c["name"], json.loads(c["arguments"])) for c in calls]


def streamed(dialect: str, server: Server, asked: Json) -> str:
    """The text of a streamed answer."""
    events = [sent.data for sent in server.stream(PATHS[dialect], asked) if sent.name != ":"]
    if dialect == "chat":
        choices = [one for e in events if isinstance(e, dict) for one in e["choices"]]
        return "".join(one["delta"].get("content") or "" for one in choices)
    if dialect == "messages":
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
        return "".join(d["text"] for d in deltas if d["type"] == "text_delta")
    return "".join(e["delta"] for e in events if e.get("type") == "response.output_text.delta")


@pytest.mark.parametrize("thinking", THINKING, ids=str)
@pytest.mark.parametrize(("dialect", "form"), FORMS, ids=str)
def test_the_content_is_the_json_alone(
    server: Server, dialect: str, form: Json, thinking: Json
) -> None:
    if thinking.get("thinking") is False:
        thinking = {"enable_thinking": False}
    asked = body(dialect, **form, **thinking)
    ends = "json_object" not in json.dumps(form)  # there the demo finds no end
    if not ends:
        asked["max_tokens" if dialect == "chat" else "max_output_tokens"] = 60
    text, calls = answer(dialect, server.ok(PATHS[dialect], asked))
    assert calls == [] and text[0] == "{"
    if ends:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert streamed(dialect, server, asked) == text


@pytest.mark.parametrize("dialect", ["chat", "messages"])
def test_an_answer_is_one_of_the_texts(server: Server, dialect: str) -> None:
    texts = ["a.b", "2 + 2", '{é|"🎉\\n']
    for some in (texts[:1], texts[2:], texts):
        for form in ({"guided_choice": some}, {"structured_outputs": {"choice": some}}):
            said, _ = answer(dialect, server.ok(PATHS[dialect], body(dialect, **form)))
            assert said in some


CHOICES: list[tuple[str, Any]] = [
    ("chat", "required"),
    ("chat", {"type": "function", "function": {"name": "weather"}}),
    ("messages", {"type": "any"}),
    ("messages", {"type": "tool", "name": "weather"}),
    ("responses", "required"),
    ("responses", {"type": "function", "name": "weather"}),
    ("chat", {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
        {"type": "function", "function": {"name": "weather"}}]}}),
    ("responses", {"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "function", "name": "weather"}, {"type": "mcp", "server_label": "x"}]}),
]  # fmt: skip


@pytest.mark.parametrize("thinking", THINKING[1:], ids=str)
@pytest.mark.parametrize(("dialect", "choice"), CHOICES, ids=str)
def test_a_call_that_is_asked_for_is_made(
    server: Server, dialect: str, choice: Any, thinking: Json
) -> None:
    more: Json = {"tool_choice": choice, **tools(dialect), **thinking}
    if dialect != "messages":
        more["parallel_tool_calls"] = False
    elif choice["type"] == "any":
        more["tool_choice"] = {**choice, "disable_parallel_tool_use": True}
    got = server.ok(PATHS[dialect], body(dialect, **more))
    text, calls = answer(dialect, got)
    assert text == "" and [name for name, _ in calls] == ["weather"]
    jsonschema.validate(calls[0][1], SCHEMA)
    if dialect == "chat":
        assert got["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("dialect", list(PATHS))
def test_a_choice_changes_no_prompt(server: Server, dialect: str) -> None:
    """Or the prefix that holds the tools would be computed anew."""
    none: Any = {"type": "none"} if dialect == "messages" else "none"
    short = {"max_output_tokens" if dialect == "responses" else "max_tokens": 9}
    asked = body(dialect, **tools(dialect)) | short
    free = ask(server, dialect, asked, stream=False)
    held = ask(server, dialect, asked | {"tool_choice": none}, stream=False)
    bare = ask(server, dialect, body(dialect, tool_choice=none) | short, stream=False)
    assert held.usage[0] == free.usage[0] > bare.usage[0] + 50 and held.calls == []
    assert held.usage[1] > held.usage[0] - 9, "it is the cached prompt"


REFUSED: list[tuple[str, Json, str]] = [
    ("chat", {"guided_json": {"not": {"type": "string"}}}, "not"),
    ("chat", {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "schema"),
    ("chat", {"response_format": {"type": "yaml"}}, "response_format.type"),
    ("chat", {"response_format": {"type": "json_object"}, "guided_json": SCHEMA}, "one form"),
    ("chat", {"guided_regex": "(?=a)b"}, "look"),
    ("chat", {"guided_regex": "\ud800"}, "regex: got a lone surrogate"),
    ("chat", {"structured_outputs": {"regex": "a\ud800"}}, "regex: got a lone surrogate"),
    ("chat", {"guided_json": {"enum": ["\ud800"]}}, "guided_json: got a lone surrogate"),
    ("chat", {"tool_choice": {"name": "\ud800", "type": "tool"}, **tools("chat")}, "ud800"),
    ("chat", {"structured_outputs": {"grammar": "x"}}, "grammar: got \"x\""),
    ("chat", {"guided_choice": "yes"}, "guided_choice: got \"yes\"; expected a list of texts"),
    ("chat", {"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice: got"),
    ("chat", {"guided_choice": ["a"], "guided_regex": "a"}, "one form"),
    ("chat", {"tool_choice": "required"}, "no tools"),
    ("chat", {"tool_choice": {"type": "function", "function": {"name": "f"}}}, "no tools"),
    ("chat", {"tool_choice": "sometimes"}, "tool_choice"),
    ("chat", {"tool_choice": {"type": "allowed_tools"}, **tools("chat")}, "tool_choice: mode"),
    ("responses", {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
        {"name": "f"}]}, **tools("responses")}, "weather"),
    ("chat", {"tools": [{"type": "function", "function": FUNCTION | {"strict": 1}}]}, "strict"),
    ("messages", {"output_format": {"type": "json_schema", "schema": {"if": {}}}}, "if"),
    ("messages", {"tool_choice": {"type": "tool", "name": "f"}, **tools("messages")}, "weather"),
    ("responses", {"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ("responses", {"text": {"format": {"type": "json_schema", "schema": 3}}}, "schema"),
]  # fmt: skip


ODD: Json = {"type": "object", "not": {}}
PLACES: list[tuple[str, Json, str]] = [
    ("chat", {"response_format": {"type": "json_schema", "json_schema": {"schema": ODD}}},
     "response_format.json_schema.schema"),
    ("chat", {"response_format": {"type": "json_object", "schema": ODD}}, "response_format.schema"),
    ("chat", {"json_schema": ODD}, "json_schema"),
    ("chat", {"guided_json": "{"}, "guided_json"),
    ("chat", {"guided_regex": "("}, "guided_regex"),
    ("chat", {"guided_choice": ["\ud800"]}, "guided_choice"),
    ("chat", {"structured_outputs": {"json": ODD}}, "structured_outputs.json"),
    ("chat", {"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex"),
    ("responses", {"text": {"format": {"type": "json_schema", "schema": ODD}}},
     "text.format.schema"),
    ("messages", {"output_config": {"format": {"type": "json_schema", "schema": ODD}}},
     "output_config.format.schema"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "more", "field"), PLACES, ids=str)
def test_a_form_that_cannot_be_honoured_is_named_as_it_was_sent(
    server: Server, dialect: str, more: Json, field: str
) -> None:
    """It was named "schema" or "regex", which most requests have no field of."""
    got = server.post(PATHS[dialect], body(dialect, **more))
    error = got.json["error"]
    assert got.status == 400 and re.match(re.escape(field) + "(: got| can't)", error["message"])
    assert dialect == "messages" or error["param"] == field


def test_a_strict_tools_schema_that_cannot_be_honoured_names_the_tools(server: Server) -> None:
    tool = {"name": "f", "strict": True, "parameters": ODD}
    asked = body("chat", tools=[{"type": "function", "function": tool}])
    assert server.post(PATHS["chat"], asked).json["error"]["param"] == "tools"


def test_a_json_object_may_have_a_schema(server: Server) -> None:
    """llama.cpp, Together and Fireworks take one; it was left aside, but for a header."""
    form = {"type": "json_object", "schema": SCHEMA}
    for more in ({"response_format": form}, {"json_schema": SCHEMA}):
        text, _ = answer("chat", server.ok(PATHS["chat"], body("chat", thinking_budget=8, **more)))
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(("dialect", "more", "said"), REFUSED, ids=str)
def test_what_cannot_be_honoured_is_a_400_with_the_sentence(
    server: Server, dialect: str, more: Json, said: str
) -> None:
    got = server.post(PATHS[dialect], body(dialect, **more))
    assert got.status == 400 and said in got.json["error"]["message"]


def test_a_completion_takes_no_form(server: Server) -> None:
    for more in ({"response_format": {"type": "json_object"}}, {"guided_json": SCHEMA}):
        got = server.post("/v1/completions", {"model": "m", "prompt": "a", **more})
        assert got.status == 400


def test_forms_free_answers_and_faults_run_side_by_side(server: Server) -> None:
    held = body("chat", guided_json=SCHEMA, thinking_budget=8)
    free = body("chat", enable_thinking=False) | {"max_tokens": 40}
    wrong = body("chat", guided_json={"$ref": "#"})
    asked = [held, free, wrong] * 3
    with ThreadPoolExecutor(9) as pool:
        got = list(pool.map(lambda one: server.post(PATHS["chat"], one), asked))
    assert [one.status for one in got] == [200, 200, 400] * 3
    texts = {answer("chat", one.json)[0] for one in got[::3]}
    assert texts == {answer("chat", server.ok(PATHS["chat"], held))[0]}
    jsonschema.validate(json.loads(texts.pop()), SCHEMA)


def test_max_tokens_ends_a_form_with_length(server: Server) -> None:
    asked = body("chat", guided_json=SCHEMA, enable_thinking=False) | {"max_tokens": 5}
    assert server.ok(PATHS["chat"], asked)["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("dialect", list(PATHS))
def test_a_strict_tool_is_one_in_every_dialect(server: Server, dialect: str) -> None:
    """A schema that no grammar honours is passed over, unless the tool is strict."""
    odd = tools(dialect)["tools"][0]
    inner = odd["function"] if dialect == "chat" else odd
    name = "input_schema" if dialect == "messages" else "parameters"
    for strict, status in ((None, 200), (False, 200), (True, 400)):
        function = inner | {name: {"type": "object", "not": {}}, "strict": strict}
        one = odd | {"function": function} if dialect == "chat" else function
        short = {"max_output_tokens" if dialect == "responses" else "max_tokens": 2}
        got = server.post(PATHS[dialect], body(dialect, tools=[one]) | short)
        assert got.status == status, got.body
        assert status == 200 or "not" in got.json["error"]["message"]
