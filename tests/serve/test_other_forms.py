"""Requests in the form of another API than their path's, and fields named as they were sent."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import chat_completions, messages, responses
from tests.serve.asking import PATHS, body
from tests.serve.server import Server
from tests.serve.test_fields import every, short

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WANT = {"name": "f", "description": "Does.", "parameters": SCHEMA}
FORMS: dict[str, dict[str, Any]] = {
    "chat": {"type": "function", "function": WANT},
    "responses": {"type": "function", **WANT},
    "no type": WANT,
    "null type": {"type": None, **WANT},
    "messages": {"name": "f", "description": "Does.", "input_schema": SCHEMA},
}


@every
@pytest.mark.parametrize("form", FORMS)
def test_a_function_is_one_in_every_apis_form(server: Server, dialect: str, form: str) -> None:
    """Dropped, or without its parameters, it left an agent without its tools."""
    asked = short(dialect, tools=[FORMS[form]])
    if dialect == "responses":
        found = responses.read(asked, responses.Kept())
    else:
        found = (chat_completions if dialect == "chat" else messages).read(asked)
    assert found.ignored == () and len(found.tools) == 1
    function = found.tools[0].get("function", found.tools[0])
    assert {key: function[key] for key in WANT} == WANT
    asked |= {"tool_choice": {"type": "any"} if dialect == "messages" else "required"}
    assert server.post(PATHS[dialect], asked).status == 200


BEFORE = {"role": "user", "content": "hi"}
ITEM = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
IMAGE = {"type": "input_image", "image_url": "x"}


def block(**more: Any) -> dict[str, Any]:
    """A conversation whose second message is a call."""
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}} | more
    return {"messages": [BEFORE, {"role": "assistant", "content": [call]}, BEFORE]}


def items(*found: dict[str, Any]) -> dict[str, Any]:
    return {"input": [BEFORE, *found]}


@pytest.mark.parametrize(
    ("dialect", "more", "field"),
    [
        ("messages", block(name=None), "messages[1].content[0].name"),
        ("messages", block(name=""), "messages[1].content[0].name"),
        ("messages", block(name=["f"]), "messages[1].content[0].name"),
        ("messages", block(input=[1]), "messages[1].content[0].input"),
        ("messages", block(input=5), "messages[1].content[0].input"),
        ("responses", items(ITEM | {"name": None}), "input[1].name"),
        ("responses", items(ITEM | {"name": 5}), "input[1].name"),
        ("responses", items(ITEM | {"arguments": [1]}), "input[1].arguments"),
        (
            "responses",
            items(ITEM, {"type": "function_call_output", "call_id": "a", "output": [IMAGE]}),
            "input[2].output[0]",
        ),
        (
            "responses",
            items(ITEM, {"type": "function_call_output", "call_id": "a", "output": "\ud83d"}),
            "input[2].output",
        ),
    ],
    ids=str,
)
def test_a_call_that_is_none_is_named_as_it_was_sent(
    server: Server, dialect: str, more: dict[str, Any], field: str
) -> None:
    """It was named messages[1].tool_calls[0].function.name, which the request doesn't have."""
    got = server.post(PATHS[dialect], short(dialect) | more)
    error = got.json["error"]
    assert got.status == 400 and error["message"].startswith(f"{field}: got "), error
    assert dialect == "messages" or error["param"] == field


def test_citations_that_are_asked_for_are_named(server: Server) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "abc"}
    document = {"type": "document", "source": source, "citations": {"enabled": True}}
    plain = document | {"citations": {"enabled": False}}
    for content, named in (
        ([document, {"type": "text", "text": "hi"}], "messages[0].content[0].citations"),
        ([plain, {"type": "text", "text": "hi", "citations": None}], None),
        ([{"type": "tool_result", "content": [document]}], "messages[0].content[0].citations"),
        ([{"type": "tool_result", "content": "x"}], None),
    ):
        asked = short("messages", messages=[{"role": "user", "content": content}])
        got = server.post(PATHS["messages"], asked)
        assert got.status == 200 and got.headers.get("x-qwen3-mlx-ignored") == named


@pytest.mark.parametrize("path", [*PATHS.values(), "/v1/completions", "/v1/messages/count_tokens"])
def test_a_prompt_that_is_too_long_is_the_fault_of_its_field(server: Server, path: str) -> None:
    long = "a b " * 20_000
    dialect = next((name for name, one in PATHS.items() if one == path), "")
    asked = body(dialect, long) if dialect else {"prompt": long}
    if path.endswith("count_tokens"):
        assert server.post(path, body("messages", long)).status == 200
        return
    got = server.post(path, asked)
    error = got.json["error"]
    assert got.status == 400 and "--context" in error["message"]
    if dialect == "messages":
        assert error["details"]["error_code"] == "context_length_exceeded"
        return
    field = {"chat": "messages", "responses": "input", "": "prompt"}[dialect]
    assert (error["param"], error["code"]) == (field, "context_length_exceeded")


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("n", 2, "ask once for each answer"),
        ("functions", [{"name": "f"}], "send them as tools"),
        ("audio", {"voice": "x"}, "leave it out"),
    ],
)
def test_what_can_not_be_had_says_what_to_send(
    server: Server, field: str, value: Any, hint: str
) -> None:
    error = server.post(PATHS["chat"], short("chat", **{field: value})).json["error"]
    assert error["param"] == field and error["message"].endswith(f"\nhint: {hint}")


def test_the_model_is_at_fault_where_it_was_not_made_for_that(server: Server) -> None:
    for path, asked in (
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}),
    ):
        assert server.post(path, asked).json["error"]["param"] == "model"


def test_another_models_name_is_told_the_one_there_is(server: Server, demo: Qwen3) -> None:
    got = server.get("/v1/models/gpt-9")
    assert got.status == 404 and f"only {demo.name!r}" in got.json["error"]["message"]


LAST = {"role": "assistant", "content": "Hel"}


@pytest.mark.parametrize(
    ("dialect", "more", "field", "said"),
    [
        ("chat", {"messages": [BEFORE, LAST]}, "messages", "continue_final_message: true"),
        ("chat", {"messages": [BEFORE], "continue_final_message": True}, "messages", "to continue"),
        ("responses", {"input": [BEFORE, LAST]}, "input", "hint: add a user message"),
        ("responses", items({"type": "reasoning", "summary": []}), "input", "add a user message"),
    ],
    ids=str,
)
def test_a_conversation_that_leaves_nothing_to_answer(
    server: Server, dialect: str, more: dict[str, Any], field: str, said: str
) -> None:
    """No field was named, and the hint was of Python and of another path's field."""
    error = server.post(PATHS[dialect], short(dialect) | more).json["error"]
    assert error["param"] == field and said in error["message"], error
    assert "continue_last" not in error["message"]
    assert dialect == "chat" or "continue" not in error["message"]


def test_thoughts_that_another_model_wrote_among_its_parts_are_read_as_thoughts(
    server: Server,
) -> None:
    """It was said that Qwen3 reads text only."""
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]
    talk = [BEFORE, {"role": "assistant", "content": parts}, BEFORE]
    plain = [BEFORE, {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}, BEFORE]
    counts = [server.ok("/tokenize", {"messages": one})["tokens"] for one in (talk, plain)]
    assert counts[0] == counts[1]
    user = [{"role": "user", "content": parts}]
    assert server.post(PATHS["chat"], short("chat", messages=user)).status == 400


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]], ["", "b"]])
def test_several_prompts_are_asked_for_one_by_one(server: Server, prompt: Any) -> None:
    error = server.post("/v1/completions", {"prompt": prompt}).json["error"]
    assert error["param"] == "prompt" and error["message"].endswith(
        "hint: ask once for each of them"
    )
    for one in ("", [], [""], [1.5], {"a": 1}):
        error = server.post("/v1/completions", {"prompt": one}).json["error"]
        assert error["param"] == "prompt" and "once" not in error["message"]


@pytest.mark.parametrize(
    ("path", "more", "hint"),
    [
        (PATHS["chat"], {"input": "hi"}, "input belongs to /v1/responses"),
        (PATHS["chat"], {"prompt": "hi"}, "prompt belongs to /v1/completions"),
        (PATHS["responses"], {"messages": [BEFORE]}, "messages belongs to /v1/chat/completions"),
        (PATHS["messages"], {"prompt": "hi"}, "prompt belongs to /v1/completions"),
        ("/v1/completions", {"messages": [BEFORE]}, "messages belongs to /v1/chat/completions"),
    ],
)
def test_a_body_of_another_path_says_which(
    server: Server, path: str, more: dict[str, Any], hint: str
) -> None:
    """Some editors send /v1/responses' bodies to /v1/chat/completions."""
    error = server.post(path, {"max_tokens": 4} | more).json["error"]
    assert error["message"].endswith(f" is missing\nhint: {hint}")
