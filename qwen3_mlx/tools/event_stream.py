"""A response's body: one message, or a stream of server-sent events."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import dataclass

from qwen3_mlx.errors import ToolError
from qwen3_mlx.tools.transport import LARGEST_MESSAGE, Message, parsed

MOST_RETRY_SECONDS = 60.0
"""The longest pause before a stream is opened again."""
_LONGEST_ID = 1_000


@dataclass
class Place:
    """The position in a stream of events, from which it can be opened again."""

    last_id: str = ""
    retry_s: float = 0.0


def whole(response: http.client.HTTPResponse) -> bytes:
    """The body of a response that is one message. Raises `ToolError` if it is too large."""
    body = response.read(LARGEST_MESSAGE + 1)
    if len(body) > LARGEST_MESSAGE:
        raise ToolError(f"a message of more than {LARGEST_MESSAGE // 2**20} MB")
    return body


def events(response: http.client.HTTPResponse, place: Place) -> Iterator[Message]:
    """The messages in a stream of server-sent events; updates `place`. Raises `ToolError`."""
    data: list[bytes] = []
    size = 0
    while line := response.readline(LARGEST_MESSAGE):
        size += len(line)
        if size > LARGEST_MESSAGE:
            raise ToolError(f"a message of more than {LARGEST_MESSAGE // 2**20} MB")
        bare = line.rstrip(b"\r\n")
        name, _, value = bare.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"id" and len(value) <= _LONGEST_ID:
            place.last_id = value.decode("latin-1")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            place.retry_s = min(int(value) / 1000, MOST_RETRY_SECONDS)
        elif not bare:
            yield from parsed(b"\n".join(data)) if data else ()
            data, size = [], 0
    if data:
        yield from parsed(b"\n".join(data))
