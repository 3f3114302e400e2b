"""What a refusal names: the field, also where another room refused it; tools of one name."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.serve.api_error import from_exception
from tests.serve.asking import PATHS
from tests.serve.server import Server
from tests.serve.test_fields import every, shaped, short

IMAGE = {"role": "user", "content": [{"type": "image"}]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"top_p": 7}, "top_p"),
        ({"temperature": -1}, "temperature"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"thinking_budget": "x"}, "thinking_budget"),
        ({"stop": 5}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "contents": "x"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
    ],
    ids=str,
)
def test_a_refusal_names_its_field(server: Server, more: dict[str, Any], param: str) -> None:
    got = server.post(PATHS["chat"], short("chat", **more))
    error = got.json["error"]
    assert (got.status, error["param"]) == (400, param), error


HALF = "\ud83d"
SHORT = {"role": "user", "content": "hi"}
ITEM = {"type": "message", "role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "x"}


@pytest.mark.parametrize(
    ("dialect", "more", "field"),
    [
        ("responses", {"max_output_tokens": 0}, "max_output_tokens"),
        ("chat", {"max_completion_tokens": 0}, "max_completion_tokens"),
        ("chat", {"max_tokens": 0}, "max_tokens"),
        ("chat", {"logprobs": True, "top_logprobs": 30}, "top_logprobs"),
        ("responses", {"input": HALF}, "input"),
        ("responses", {"instructions": HALF}, "instructions"),
        ("responses", {"input": [{"type": "no_such_item"}]}, "input"),
        (
            "responses",
            {"instructions": "Be brief.", "input": [ITEM, CALL, ITEM | IMAGE]},
            "input[2].content[0]",
        ),
        ("messages", {"system": HALF}, "system"),
        (
            "messages",
            {"system": "Be brief.", "messages": [SHORT, SHORT | {"content": HALF}]},
            "messages[1].content",
        ),
        (
            "messages",
            {"messages": [SHORT | {"content": [RESULT, RESULT]}, SHORT | {"content": HALF}]},
            "messages[1].content",
        ),
        ("responses", {"tools": [{"type": "function"}]}, "tools[0].name"),
        ("messages", {"tools": [{"input_schema": {}}]}, "tools[0].name"),
        (
            "messages",
            {"tools": [{"name": "f", "input_schema": {"type": "array"}}]},
            "tools[0].input_schema.type",
        ),
    ],
    ids=str,
)
def test_a_refusal_names_the_field_that_was_sent(
    server: Server, dialect: str, more: dict[str, Any], field: str
) -> None:
    """It named the field of chat completions, and the message of the converted conversation."""
    asked = short(dialect) | more
    if "max_completion_tokens" in more:
        del asked["max_tokens"]
    got = server.post(PATHS[dialect], asked)
    said = got.json["error"]["message"]
    assert got.status == 400 and said.startswith(f"{field}: got "), said
    assert "function.name" not in said and '"function"' not in said, said
    if dialect != "messages":
        assert field.startswith(got.json["error"]["param"])


def test_what_leaves_no_room_is_told_in_the_requests_words(server: Server) -> None:
    asked = short("responses", thinking_budget=1000, max_output_tokens=600)
    said = server.post(PATHS["responses"], asked).json["error"]["message"]
    assert "raise max_output_tokens above" in said and " max_tokens" not in said


def test_what_was_said_before_moves_no_place(server: Server) -> None:
    kept = server.post(PATHS["responses"], short("responses", input="hi", thinking_budget=0))
    asked = short("responses", previous_response_id=kept.json["id"], input=[ITEM, CALL, IMAGE])
    error = server.post(PATHS["responses"], asked).json["error"]
    assert error["param"] == "input[2].content[0]"


def test_what_is_no_field_is_not_called_one() -> None:
    from qwen3_mlx.errors import ConfigError, OptionError

    for error in (OptionError("the message", got=5), ConfigError("config.json is missing")):
        assert from_exception(error).param is None
    assert from_exception(OptionError("tools[3].function.name")).param == "tools[3].function.name"


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool", "assistant"])
@pytest.mark.parametrize("field", ["contents", "Content", "conent", "text", "parts", "value"])
def test_a_content_by_another_name_is_refused(server: Server, role: str, field: str) -> None:
    """It was an empty message. One without any is what other programs write for an empty one."""
    asked: list[dict[str, Any]] = [{"role": "user", "content": "hi"}] * 3
    asked[1] = {"role": role, field: "hello"}
    got = server.post(PATHS["chat"], short("chat", messages=asked))
    said = got.json["error"]["message"]
    assert got.status == 400 and said.startswith("messages[1].content: got a message with"), said
    assert repr(field) in said and got.json["error"]["param"] == "messages[1].content"
    for empty in ({"role": role}, {"role": role, "content": None, "name": "x"}):
        asked[1] = empty
        assert server.post(PATHS["chat"], short("chat", messages=asked)).status == 200
    asked[1] = {"role": role, "content": "hello", field: "more"}
    assert server.post(PATHS["chat"], short("chat", messages=asked)).status == 200


@every
def test_a_call_can_say_which_tool_it_means(server: Server, dialect: str) -> None:
    """Two tools of one name are refused, unless they are the same one given twice."""
    one = {"name": "f", "description": "One.", "parameters": {"type": "object", "properties": {}}}
    other = one | {"description": "Another."}
    tools = [shaped(dialect, tool) for tool in (one, one, one | {"name": "g"})]
    assert server.post(PATHS[dialect], short(dialect, tools=tools)).status == 200
    tools = [shaped(dialect, tool) for tool in (one, one | {"name": "g"}, other)]
    got = server.post(PATHS[dialect], short(dialect, tools=tools))
    assert got.status == 400 and 'tools[2].name: got "f"' in got.json["error"]["message"]
