"""Server-sent events, and the protocol that every dialect's answer writer implements."""

from __future__ import annotations

import json
from typing import Any, Protocol

from qwen3_mlx.events import Done, Event, FinishReason, Reply
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.usage import Usage

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Writer(Protocol):
    """Writes one answer in a dialect, streamed as events or whole."""

    def begin(self, usage: Usage) -> list[bytes]:
        """The bytes sent before the turn's first event."""

    def take(self, event: Event) -> list[bytes]:
        """The bytes that an event adds to the stream, possibly none."""

    def end(self, done: Done, usage: Usage) -> list[bytes]:
        """The last bytes of a stream whose turn has ended."""

    def fail(self, error: ApiError) -> list[bytes]:
        """The last bytes of a stream whose turn has failed."""

    def alive(self, done: int, total: int) -> bytes:
        """A sign of life with no effect; `done` of `total` prompt tokens are in the cache."""

    def whole(self, reply: Reply, usage: Usage) -> dict[str, Any]:
        """The whole answer as a JSON object."""


def data(value: dict[str, Any] | str) -> bytes:
    """An unnamed event with a JSON object, or with text as it is (``[DONE]``)."""
    return b"data: %b\n\n" % (value.encode() if isinstance(value, str) else encoded(value))


class Framed:
    """Events that differ only in one text, which replaces `HERE`: the rest is encoded once."""

    HERE = "\ue000here\ue000"

    def __init__(self, value: dict[str, Any]) -> None:
        self._before, self._after = data(value).rsplit(encoded(self.HERE), 1)

    def data(self, text: str) -> bytes:
        """The event with `text` in the place of `HERE`."""
        return b"%b%b%b" % (self._before, encoded(text), self._after)


def named(value: dict[str, Any]) -> bytes:
    """An event whose name is the ``type`` of `value`."""
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), encoded(value))


def comment(text: str) -> bytes:
    """A comment line, which clients skip."""
    return f": {text}\n\n".encode()


def encoded(value: Any) -> bytes:
    """JSON on one line, as UTF-8; a lone surrogate, which UTF-8 can't encode, becomes "?"."""
    return _JSON(value).encode("utf-8", "replace")


def finish(reason: FinishReason, calls: bool, length: str, stop: str, called: str) -> str:
    """`reason` in a dialect's words; an interrupted turn counts as cut off by length."""
    if calls and reason != "length":
        return called
    return stop if reason == "stop" else length
