"""A client for servers under test: one request a connection, times of every piece that comes."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"


@dataclass
class Heard:
    """What came back: the status, and when each piece of the answer did, in seconds from asking."""

    status: int = 0
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    body: bytes = b""
    seconds: float = 0.0

    @property
    def first(self) -> float:
        return self.times[0] if self.times else self.seconds

    @property
    def gap(self) -> float:
        """The longest time between two pieces."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return max((later - earlier for earlier, later in pairs), default=0.0)


def request(port: int, path: str, body: bytes) -> bytes:
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", "connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def post(
    port: int,
    body: dict[str, Any] | bytes,
    path: str = CHAT,
    *,
    leave_after: int | None = None,
    leave_bytes: int | None = None,
    wait: float = 600,
) -> Heard:
    """Ask; with `leave_after` close the connection behind so many pieces, and wait no longer.

    With `leave_bytes` close it behind so many bytes of the answer.
    """
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    heard, began = Heard(), time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(port, path, sent))
        async with asyncio.timeout(wait):
            await _listen(reader, heard, began, leave_after, leave_bytes)
    except TimeoutError:
        if leave_after is None and leave_bytes is None:
            raise
    finally:
        heard.seconds = time.perf_counter() - began
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
    return heard


async def _listen(
    reader: asyncio.StreamReader,
    heard: Heard,
    began: float,
    leave_after: int | None,
    leave_bytes: int | None,
) -> None:
    line = await reader.readline()
    heard.status = int(line.split()[1]) if line else 0
    while (line := await reader.readline()).strip():
        pass
    while line := await reader.readline():
        heard.body += line
        if leave_bytes is not None and len(heard.body) > leave_bytes:
            return
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            heard.tokens = event["usage"].get("completion_tokens", 0)
        choices = event.get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        if any(delta.get(name) for name in ("content", "reasoning_content", "reasoning")):
            heard.times.append(time.perf_counter() - began)
        if leave_after is not None and len(heard.times) > leave_after:
            return


async def abandon(port: int, sent: bytes) -> None:
    """Send some bytes of a request, and go before an answer is read."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
