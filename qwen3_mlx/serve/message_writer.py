"""Writes answers in Anthropic's ``/v1/messages`` format: blocks of thinking, text, tool use."""

from __future__ import annotations

from typing import Any

from qwen3_mlx.events import Answer, Done, Event, Reply, Thinking, ToolCall, ToolCallDelta
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.ask import Ask, Json
from qwen3_mlx.serve.sse import finish, named
from qwen3_mlx.serve.usage import Usage

SIGNATURE = "qwen3-mlx"
"""The signature of every thinking block: clients expect one, and nothing verifies it."""


class Writer:
    """Writes the events of a streamed message, or a whole message."""

    def __init__(self, id: str, model: str, ask: Ask) -> None:
        self.id, self.model = id, model
        self._index = -1
        self._kind = ""
        self._called = False

    def begin(self, usage: Usage) -> list[bytes]:
        """``message_start``, with the prompt's usage."""
        message = self._message([], None, None, counts(usage) | {"output_tokens": 0})
        return [named({"type": "message_start", "message": message})]

    def take(self, event: Event) -> list[bytes]:
        """A delta of the current block, which opens and closes blocks as its kind changes."""
        match event:
            case Thinking(text):
                return self._grow("thinking", {"type": "thinking_delta", "thinking": text})
            case Answer(text):
                return self._grow("text", {"type": "text_delta", "text": text})
            case ToolCallDelta():
                start = self._open_call(event) if event.name else []
                delta = {"type": "input_json_delta", "partial_json": event.arguments}
                return [*start, *([self._delta(delta)] if event.arguments else [])]
            case ToolCall():
                self._called = True
                return self._close()
        return []

    def _open_call(self, delta: ToolCallDelta) -> list[bytes]:
        block = {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}}
        return self._open("tool_use", block)

    def _grow(self, kind: str, delta: Json) -> list[bytes]:
        empty: Json = {"type": "text", "text": ""}
        if kind == "thinking":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
        start = [] if self._kind == kind else self._open(kind, empty)
        return [*start, self._delta(delta)]

    def _open(self, kind: str, block: Json) -> list[bytes]:
        before = self._close()
        self._index += 1
        self._kind = kind
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return [*before, named(start)]

    def _delta(self, delta: Json) -> bytes:
        return named({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> list[bytes]:
        kind, self._kind = self._kind, ""
        if not kind:
            return []
        signed = [self._delta({"type": "signature_delta", "signature": SIGNATURE})]
        stop = named({"type": "content_block_stop", "index": self._index})
        return [*(signed if kind == "thinking" else []), stop]

    def end(self, done: Done, usage: Usage) -> list[bytes]:
        """``content_block_stop``, ``message_delta`` (stop reason, usage), ``message_stop``."""
        reason = _reason(done.finish_reason, self._called, done.stopped_by)
        delta = {"stop_reason": reason, "stop_sequence": done.stopped_by}
        last = {"type": "message_delta", "delta": delta, "usage": counts(usage)}
        return [*self._close(), named(last), named({"type": "message_stop"})]

    def fail(self, error: ApiError) -> list[bytes]:
        """The error in Anthropic's format, as the last event."""
        return [named(error.body("anthropic"))]

    def alive(self, done: int, total: int) -> bytes:
        """A ``ping`` event; it doesn't report the progress."""
        return named({"type": "ping"})

    def whole(self, reply: Reply, usage: Usage) -> Json:
        """The message with all blocks: thinking, text, then tool calls."""
        blocks: list[Json] = []
        if reply.thinking:
            thought = {"type": "thinking", "thinking": reply.thinking, "signature": SIGNATURE}
            blocks.append(thought)
        if reply.answer:
            blocks.append({"type": "text", "text": reply.answer})
        for call in reply.tool_calls:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            blocks.append(block)
        reason = _reason(reply.finish_reason, bool(reply.tool_calls), reply.stopped_by)
        return self._message(blocks, reason, reply.stopped_by, counts(usage))

    def _message(
        self, blocks: list[Json], reason: str | None, stop: str | None, usage: Json
    ) -> Json:
        head: dict[str, Any] = {"id": self.id, "type": "message", "role": "assistant"}
        head |= {"model": self.model, "content": blocks}
        return head | {"stop_reason": reason, "stop_sequence": stop, "usage": usage}


def _reason(reason: Any, called: bool, stopped_by: str | None) -> str:
    if stopped_by is not None and not called:
        return "stop_sequence"
    return finish(reason, called, "max_tokens", "end_turn", "tool_use")


def counts(usage: Usage) -> Json:
    """The ``usage`` object, in tokens: the three kinds of input add up to the prompt."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }
