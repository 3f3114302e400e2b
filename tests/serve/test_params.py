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
