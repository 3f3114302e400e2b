"""Server-sent events, and what every dialect's writer of answers has to offer."""

from __future__ import annotations

import json
from typing import Any, Protocol

from qwen3_mlx.events import Done, Event, FinishReason, Reply
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.usage import Usage

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Writer(Protocol):
    """Writes one answer: in pieces as it comes, or whole."""

    def begin(self, usage: Usage) -> list[bytes]:
        """What comes before the first event."""

    def take(self, event: Event) -> list[bytes]:
        """What an event adds to the stream."""

    def end(self, done: Done, usage: Usage) -> list[bytes]:
        """The end of the stream."""

    def fail(self, error: ApiError) -> list[bytes]:
        """The end of a stream that can't go on."""

    def alive(self, done: int, total: int) -> bytes:
        """Something that changes nothing, so that nobody takes the silence for a hang."""

    def whole(self, reply: Reply, usage: Usage) -> dict[str, Any]:
        """The answer in one piece."""


def data(value: dict[str, Any] | str) -> bytes:
    """An event without a name."""
    return b"data: %b\n\n" % (value.encode() if isinstance(value, str) else encoded(value))


class Framed:
    """Events that differ in one text alone, which stands in the place of `HERE`."""

    HERE = "\ue000here\ue000"

    def __init__(self, value: dict[str, Any]) -> None:
        self._before, self._after = data(value).rsplit(encoded(self.HERE), 1)

    def data(self, text: str) -> bytes:
        """As `data`, with `text`."""
        return b"%b%b%b" % (self._before, encoded(text), self._after)


def named(value: dict[str, Any]) -> bytes:
    """An event that is named by its type."""
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), encoded(value))


def comment(text: str) -> bytes:
    """A line that clients skip."""
    return f": {text}\n\n".encode()


def encoded(value: Any) -> bytes:
    """JSON in one line; half a surrogate pair, which JSON can spell and UTF-8 can't, is "?"."""
    return _JSON(value).encode("utf-8", "replace")


def finish(reason: FinishReason, calls: bool, length: str, stop: str, called: str) -> str:
    """`reason` in a dialect's words; a turn that the server interrupted was cut, too."""
    if calls and reason != "length":
        return called
    return stop if reason == "stop" else length
