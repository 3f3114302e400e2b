"""The same questions in four dialects, and the same parts of their answers, streamed or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.serve.server import Client, Json, Sent

THOUGHT, SAID = "Let me see: 想 🎉.", "The answer is 4 — 四 🙂."
SCRIPT = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"
CALLS = [
    ("weather", {"city": "Zürich 🏔", "days": 2, "units": None}),
    ("weather", {"city": "Oslo", "days": 1, "units": "K"}),
]
CALL_SCRIPT = "<think>\nI'll look.\n</think>\n\nOne moment." + "".join(
    f"\n<tool_call>\n{json.dumps({'name': n, 'arguments': a}, ensure_ascii=False)}\n</tool_call>"
    for n, a in CALLS
)
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "units": {"type": ["string", "null"]},
    },
}
FUNCTION = {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}
PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}


@dataclass
class Said:
    """An answer, whatever the dialect."""

    thinking: str = ""
    answer: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    reason: str = ""
    usage: tuple[int, int, int, int] = (0, 0, 0, 0)
    """prompt, cached, output, thinking; -1 where the dialect has no such count."""


def body(dialect: str, question: str = "hi", *, tools: bool = False, **more: Any) -> Json:
    if dialect == "responses":
        found: Json = {"model": "m", "input": question}
        offered: list[Json] = [{"type": "function", **FUNCTION}]
    else:
        found = {"model": "m", "messages": [{"role": "user", "content": question}]}
        offered = [{"type": "function", "function": FUNCTION}]
    if dialect == "messages":
        found["max_tokens"] = 2000
        function = {name: FUNCTION[name] for name in ("name", "description")}
        offered = [function | {"input_schema": PARAMETERS}]
    return found | ({"tools": offered} if tools else {}) | more


def ask(client: Client, dialect: str, sent: Json, *, stream: bool) -> Said:
    path = PATHS[dialect]
    if not stream:
        return WHOLE[dialect](client.ok(path, sent))
    if dialect == "chat":
        sent = sent | {"stream_options": {"include_usage": True}}
    return STREAMED[dialect](client.stream(path, sent))


def _chat_usage(usage: Json) -> tuple[int, int, int, int]:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    thinking = usage["completion_tokens_details"]["reasoning_tokens"]
    return usage["prompt_tokens"], cached, usage["completion_tokens"], thinking


def _chat(got: Json) -> Said:
    one = got["choices"][0]
    message = one["message"]
    assert got["object"] == "chat.completion" and got["id"].startswith("chatcmpl-")
    assert message["role"] == "assistant" and message["refusal"] is None
    assert message.get("reasoning") == message.get("reasoning_content")
    calls = [c["function"] for c in message.get("tool_calls", [])]
    read = [(c["name"], json.loads(c["arguments"])) for c in calls]
    return Said(
        *(message.get("reasoning_content", ""), message["content"] or "", read),
        *(one["finish_reason"], _chat_usage(got["usage"])),
    )


def _chat_stream(sent: list[Sent]) -> Said:
    sent = [one for one in sent if one.name != ":"]
    assert sent[-1].data == "[DONE]" and not any(one.name for one in sent)
    chunks = [one.data for one in sent[:-1]]
    assert len({(c["id"], c["object"], c["created"], c["model"]) for c in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"] == [] and all(c["choices"] for c in chunks[:-1])
    said, texts = Said(usage=_chat_usage(chunks[-1]["usage"])), dict[int, list[str]]()
    for chunk in chunks[:-1]:
        one = chunk["choices"][0]
        delta = one["delta"]
        assert not said.reason, "nothing follows the finish"
        said.thinking += delta.get("reasoning_content", "")
        said.answer += delta.get("content") or ""
        said.reason = one["finish_reason"] or ""
        for call in delta.get("tool_calls", []):
            pieces = texts.setdefault(call["index"], [])
            if "id" in call:
                assert not pieces and call["type"] == "function"
                said.calls.append((call["function"]["name"], None))
            pieces.append(call["function"]["arguments"])
    read = [(name, arguments_of("".join(texts[i]))) for i, (name, _) in enumerate(said.calls)]
    said.calls = [(name, arguments) for name, arguments in read if arguments is not None]
    return said


def arguments_of(pieces: str) -> Any:
    """The arguments of a call whose pieces came; None for a call that was cut, or that was none."""
    try:
        return json.loads(pieces)
    except ValueError:
        return None


def _message(got: Json) -> Said:
    assert got["type"] == "message" and got["role"] == "assistant" and got["id"].startswith("msg_")
    said = Said(reason=got["stop_reason"])
    for block in got["content"]:
        if block["type"] == "thinking":
            said.thinking += block["thinking"]
            assert block["signature"]
        elif block["type"] == "text":
            said.answer += block["text"]
        else:
            if block["input"] is not None:
                said.calls.append((block["name"], block["input"]))
            assert block["type"] == "tool_use" and block["id"]
    said.usage = _message_usage(got["usage"])
    return said


def _message_usage(usage: Json) -> tuple[int, int, int, int]:
    cached = usage["cache_read_input_tokens"]
    prompt = usage["input_tokens"] + cached + usage["cache_creation_input_tokens"]
    return prompt, cached, usage["output_tokens"], -1


def _message_stream(sent: list[Sent]) -> Said:
    assert all(one.name == one.data["type"] for one in sent)
    sent = [one for one in sent if one.name != "ping"]
    assert [sent[0].name, sent[-2].name] == ["message_start", "message_delta"]
    assert sent[-1].name == "message_stop"
    message = sent[0].data["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    blocks: list[Json] = []
    open_block, pieces = False, ""
    for one in sent[1:-2]:
        if one.name == "content_block_start":
            assert not open_block and one.data["index"] == len(blocks)
            blocks.append(dict(one.data["content_block"]))
            open_block, pieces = True, ""
        elif one.name == "content_block_stop":
            assert open_block and one.data["index"] == len(blocks) - 1
            if blocks[-1]["type"] == "tool_use":
                assert blocks[-1]["input"] == {}
                blocks[-1]["input"] = arguments_of(pieces)
            open_block = False
        else:
            delta = dict(one.data["delta"])
            kind = delta.pop("type")
            name, text = next(iter(delta.items()))
            assert open_block and one.data["index"] == len(blocks) - 1
            pieces += text if kind == "input_json_delta" else ""
            if kind != "input_json_delta":
                blocks[-1][name] += text
    assert not open_block
    end = sent[-2].data
    return _message(message | {"content": blocks, "usage": end["usage"], **end["delta"]})


def _response(got: Json) -> Said:
    assert got["object"] == "response" and got["id"].startswith("resp_")
    said, usage = Said(reason=got["status"]), got["usage"]
    if got["incomplete_details"]:
        said.reason = got["incomplete_details"]["reason"]
    for item in got["output"]:
        if item["type"] == "reasoning":
            said.thinking += "".join(part["text"] for part in item["content"])
        elif item["type"] == "message":
            said.answer += "".join(part["text"] for part in item["content"])
        else:
            assert item["type"] == "function_call" and item["call_id"]
            if item["status"] == "incomplete":  # a call that was cut, or none
                continue
            said.calls.append((item["name"], json.loads(item["arguments"])))
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    thinking = usage["output_tokens_details"]["reasoning_tokens"]
    said.usage = (usage["input_tokens"], cached, usage["output_tokens"], thinking)
    return said


def _response_stream(sent: list[Sent]) -> Said:
    sent = [one for one in sent if one.name != ":"]
    assert all(one.name == one.data["type"] for one in sent)
    assert [one.data["sequence_number"] for one in sent] == list(range(len(sent)))
    assert [one.name for one in sent[:2]] == ["response.created", "response.in_progress"]
    items: list[Json] = []
    text = ""
    for one in sent[2:-1]:
        kind, data = one.name.removeprefix("response."), one.data
        if kind == "output_item.added":
            assert data["output_index"] == len(items)
            items.append(data["item"])
            text = ""
        elif kind.endswith(".delta"):
            assert data["item_id"] == items[-1]["id"]
            text += data["delta"]
        elif kind in ("reasoning_text.done", "output_text.done"):
            assert data["text"] == text
        elif kind == "function_call_arguments.done":
            assert data["arguments"] == text
        elif kind == "output_item.done":
            assert data["item"]["id"] == items[-1]["id"]
            items[-1] = data["item"]
    last = sent[-1].data["response"]
    assert sent[-1].name == f"response.{last['status']}" and last["output"] == items
    return _response(last)


WHOLE: dict[str, Callable[[Json], Said]] = {
    "chat": _chat,
    "messages": _message,
    "responses": _response,
}
STREAMED: dict[str, Callable[[list[Sent]], Said]] = {
    "chat": _chat_stream,
    "messages": _message_stream,
    "responses": _response_stream,
}
