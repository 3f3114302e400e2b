"""Writes answers in OpenAI's ``/v1/responses`` format: items, and the events that build them."""

from __future__ import annotations

import json
import secrets
import time

from qwen3_mlx.events import Answer, Done, Event, Reply, Thinking, ToolCall, ToolCallDelta
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.ask import Ask, Json
from qwen3_mlx.serve.response_items import encrypted, to_messages
from qwen3_mlx.serve.responses import Kept
from qwen3_mlx.serve.sse import comment, named
from qwen3_mlx.serve.usage import Usage

_PREFIX = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_"}
_UNUSED = ("max_tool_calls", "prompt_cache_key", "safety_identifier", "user")
_TEXT = {"reasoning": "reasoning_text", "message": "output_text"}


class Writer:
    """Writes a streamed or whole response; both are built from the same items."""

    def __init__(self, id: str, model: str, ask: Ask, kept: Kept) -> None:
        self.id, self.model, self.ask, self._kept = id, model, ask, kept
        self.created = int(time.time())
        self._number = 0
        self._output: list[Json] = []
        self._item: Json | None = None
        self._text = ""
        self._calls = 0

    def begin(self, usage: Usage) -> list[bytes]:
        """``response.created`` and ``response.in_progress``."""
        now = self._response("in_progress", None)
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=now) for kind in kinds]

    def take(self, event: Event) -> list[bytes]:
        """A delta of the current item, which opens and closes items as their kind changes."""
        match event:
            case Thinking(text):
                return self._grow("reasoning", text)
            case Answer(text):
                return self._grow("message", text)
            case ToolCallDelta():
                return self._grow_call(event)
            case ToolCall():
                return self._end_call(event)
        return []

    def _grow(self, kind: str, text: str) -> list[bytes]:
        start = [] if self._item and self._item["type"] == kind else self._open(kind)
        self._text += text
        place = self._place() | {"content_index": 0}
        logprobs: Json = {"logprobs": []} if kind == "message" else {}
        return [
            *start,
            self._event(f"response.{_TEXT[kind]}.delta", **place, delta=text, **logprobs),
        ]

    def _open(self, kind: str) -> list[bytes]:
        before = self._close()
        self._item = {"id": _PREFIX[kind] + secrets.token_hex(12), "type": kind}
        own: Json = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        self._item |= {"status": "in_progress", "content": [], **own}
        added = self._event("response.output_item.added", **self._at(), item=dict(self._item))
        part = self._event(
            "response.content_part.added", **self._place(), content_index=0, part=_part(kind, "")
        )
        return [*before, added, part]

    def _grow_call(self, delta: ToolCallDelta) -> list[bytes]:
        events: list[bytes] = []
        if delta.name:
            events += self._close()
            self._item = {"id": _PREFIX["function_call"] + secrets.token_hex(12)}
            self._item |= {"type": "function_call", "status": "in_progress", "call_id": delta.id}
            self._item |= {"name": delta.name, "arguments": ""}
            item = dict(self._item)
            events.append(self._event("response.output_item.added", **self._at(), item=item))
        if delta.arguments and self._in_call:
            self._text += delta.arguments
            kind = "response.function_call_arguments.delta"
            events.append(self._event(kind, **self._place(), delta=delta.arguments))
        return events

    @property
    def _in_call(self) -> bool:
        return self._item is not None and self._item["type"] == "function_call"

    def _end_call(self, call: ToolCall) -> list[bytes]:
        self._calls += 1
        events: list[bytes] = []
        if self._item is None or not self._in_call or self._item["name"] != call.name:
            events = self._grow_call(ToolCallDelta(0, call.name, "", call.id))
        return [*events, *self._close_call("completed", _arguments(self._text, call))]

    def _close_call(self, status: str, arguments: str) -> list[bytes]:
        assert self._item is not None
        item = self._item | {"status": status, "arguments": arguments}
        kind = "response.function_call_arguments.done"
        said = self._event(kind, **self._place(), arguments=arguments, name=item["name"])
        return [said, self._done(item)]

    def _done(self, item: Json) -> bytes:
        ended = self._event("response.output_item.done", **self._at(), item=item)
        self._output.append(item)
        self._item, self._text = None, ""
        return ended

    def _close(self, status: str = "completed") -> list[bytes]:
        """Close the open item. A call that is still open was cut, or is none: it is incomplete."""
        item, text = self._item, self._text
        if item is None:
            return []
        if self._in_call:
            return self._close_call("incomplete", text)
        kind, place = item["type"], self._place() | {"content_index": 0}
        logprobs: Json = {"logprobs": []} if kind == "message" else {}
        part = _part(kind, text)
        events = [self._event(f"response.{_TEXT[kind]}.done", **place, text=text, **logprobs)]
        events.append(self._event("response.content_part.done", **place, part=part))
        item = item | {"status": status, "content": [part]}
        if kind == "reasoning" and self.ask.more["encrypted"]:
            item["encrypted_content"] = encrypted(text)
        return [*events, self._done(item)]

    def end(self, done: Done, usage: Usage) -> list[bytes]:
        """``response.completed`` or ``response.incomplete``; stores it unless told not to."""
        complete = done.finish_reason == "stop" or (self._calls and done.finish_reason != "length")
        status = "completed" if complete else "incomplete"
        last = self._close(status)
        response = self._response(status, usage)
        self._keep(response)
        return [*last, self._event(f"response.{status}", response=response)]

    def _keep(self, response: Json) -> None:
        """Store the response with what the client would send back of it, had it kept the items."""
        if self.ask.more["store"] is False:
            return
        said = to_messages(self._output)[0] or [{"role": "assistant", "content": ""}]
        more = self.ask.more
        self._kept.put(self.id, [*more["before"], *said], response, more["input"])

    def fail(self, error: ApiError) -> list[bytes]:
        """``response.failed``, as the last event; an open item ends as incomplete."""
        last = self._close("incomplete")
        response = self._response("failed", None)
        response["error"] = {"code": "server_error", "message": error.message}
        return [*last, self._event("response.failed", response=response)]

    def alive(self, done: int, total: int) -> bytes:
        """A comment with the prefill's progress, in tokens."""
        return comment(f"{done}/{total}")

    def whole(self, reply: Reply, usage: Usage) -> Json:
        """The response object, with the items that the events would have built."""
        if reply.thinking:
            self.take(Thinking(reply.thinking))
        if reply.answer:
            self.take(Answer(reply.answer))
        for n, call in enumerate(reply.tool_calls):
            self.take(ToolCallDelta(n, call.name, "", call.id))
            self.take(call)
        self.end(Done(reply.finish_reason, reply.stats), usage)
        complete = reply.finish_reason == "stop" or (
            self._calls and reply.finish_reason != "length"
        )
        return self._response("completed" if complete else "incomplete", usage)

    def _at(self) -> Json:
        return {"output_index": len(self._output)}

    def _place(self) -> Json:
        assert self._item is not None
        return {"item_id": self._item["id"], **self._at()}

    def _event(self, kind: str, **values: object) -> bytes:
        number, self._number = self._number, self._number + 1
        return named({"type": kind, "sequence_number": number, **values})

    def _response(self, status: str, usage: Usage | None) -> Json:
        more, options = self.ask.more, self.ask.options
        short = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._echo() | {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": short,
            "instructions": more["instructions"],
            "max_output_tokens": options.get("max_tokens"),
            "metadata": more["metadata"],
            "model": self.model,
            "output": list(self._output),
            "parallel_tool_calls": not self.ask.one_call,
            "previous_response_id": more["previous"],
            "reasoning": {"effort": self.ask.thinking.effort, "summary": None},
            "store": more["store"] is not False,
            "text": {"format": {"type": "text"}, **more["text"]},
            "tool_choice": more["choice"],
            "truncation": "disabled",
            "usage": None if usage is None else counts(usage),
        }

    def _echo(self) -> Json:
        """Fields that a response must repeat from its request; null if the request lacks them."""
        drawn, nothing = (
            self.ask.sampling,
            {"description": None, "parameters": None, "strict": None},
        )
        found: Json = dict.fromkeys(_UNUSED)
        found |= {"background": False, "service_tier": "default", "top_logprobs": 0}
        numbers = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
        found |= {name: getattr(drawn, name, None) for name in numbers}
        tools = self.ask.more["tools"]
        return found | {"tools": [nothing | t if t.get("type") == "function" else t for t in tools]}


def _arguments(streamed: str, call: ToolCall) -> str:
    """The JSON text of a call's arguments: as it was streamed, if that is all of it."""
    try:
        if json.loads(streamed) == call.arguments:
            return streamed
    except ValueError:
        pass
    return json.dumps(call.arguments, ensure_ascii=False)


def _part(kind: str, text: str) -> Json:
    part: Json = {"type": _TEXT[kind], "text": text}
    return part | ({"annotations": [], "logprobs": []} if kind == "message" else {})


def counts(usage: Usage) -> Json:
    """The ``usage`` object of responses: tokens; the input's include the cached ones."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.thinking},
        "total_tokens": usage.prompt + usage.output,
    }
