"""An MCP server behind an address: each message a POST, answered by JSON or by a stream of events.

https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from qwen3_mlx.errors import ToolError, without_secrets
from qwen3_mlx.tools.transport import LARGEST_MESSAGE, Message, Receiver, parsed

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 300.0
"""Longest that a stream may stay silent; a call's own time is up long before."""


class Http:
    """The POSTs of one session with a server."""

    ended = ""
    """An address may answer again: it is never known to be gone."""

    def __init__(self, url: str, headers: Mapping[str, str], receiver: Receiver) -> None:
        """Nothing is asked yet. Raises `ToolError` for an address that is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ToolError("a server's url", got=url, expected="http://… or https://…")
        self._url, self._headers, self._receiver = parts, dict(headers), receiver
        self._session: str | None = None
        self.version: str | None = None
        self._connections: set[http.client.HTTPConnection] = set()
        self._closed = False

    def send(self, message: Message) -> None:
        """As `Transport.send`; the answer comes in a thread of its own."""
        if self._closed:
            raise ToolError("the server is closed")
        work = threading.Thread(target=self._post, args=(message,), name="mcp post", daemon=True)
        work.start()
        if "id" not in message:  # what follows it must find it done
            work.join(CONNECT_SECONDS)

    def _post(self, message: Message) -> None:
        connection = self._connection()
        self._connections.add(connection)
        try:
            answered = False
            for one in self._answers(connection, message):
                self._receiver.received(one)
                answered = answered or one.get("id") == message.get("id")
            if not answered:
                self._failed(message, "no answer: what came is no message of MCP")
        except ToolError as error:
            self._failed(message, str(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._failed(message, without_secrets(why))
        finally:
            self._connections.discard(connection)
            connection.close()

    def _failed(self, message: Message, why: str) -> None:
        if "id" in message and not self._closed:
            error = {"code": -32000, "message": why}
            self._receiver.received({"jsonrpc": "2.0", "id": message["id"], "error": error})

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection
        make = kind if self._url.scheme == "https" else http.client.HTTPConnection
        return make(self._url.hostname or "", self._url.port, timeout=CONNECT_SECONDS)

    def _answers(
        self, connection: http.client.HTTPConnection, message: Message
    ) -> Iterator[Message]:
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        if self._session is not None:
            headers["Mcp-Session-Id"] = self._session
        if self.version is not None:
            headers["MCP-Protocol-Version"] = self.version
        connection.request("POST", path, json.dumps(message).encode(), headers)
        response = connection.getresponse()
        if connection.sock is not None:
            connection.sock.settimeout(SILENCE_SECONDS)
        if response.status >= 300:
            raise self._refused(response)
        self._session = response.headers.get("Mcp-Session-Id", self._session)
        kind = response.headers.get_content_type()
        if kind == "text/event-stream":
            yield from _events(response)
        elif kind == "application/json" and response.status != 202:
            yield from parsed(_whole(response))

    def _refused(self, response: http.client.HTTPResponse) -> ToolError:
        said = response.read(2_000).decode("utf-8", "replace").strip()
        hint = None
        if response.status in (401, 403):
            hint = 'it wants to know who asks: "headers": {"Authorization": "Bearer …"}'
        if response.status == 404 and self._session is not None:
            hint = "its session is over; /mcp starts it again"
        got = without_secrets(f"{response.status} {response.reason} {said[:200]}".strip())
        return ToolError("the server refused", got=got, hint=hint)

    def close(self) -> None:
        """Give up what is under way, and tell the server that the session is over."""
        if self._closed:
            return
        self._closed = True
        for connection in list(self._connections):
            sock = connection.sock
            with contextlib.suppress(OSError):
                if sock is not None:
                    sock.shutdown(2)
        if self._session is not None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = self._connection()
                connection.timeout = 2.0
                headers = {**self._headers, "Mcp-Session-Id": self._session}
                connection.request("DELETE", self._url.path or "/", headers=headers)
                connection.getresponse().read(1_000)
                connection.close()


def _whole(response: http.client.HTTPResponse) -> bytes:
    body = response.read(LARGEST_MESSAGE + 1)
    if len(body) > LARGEST_MESSAGE:
        raise ToolError(f"a message of more than {LARGEST_MESSAGE // 2**20} MB")
    return body


def _events(response: http.client.HTTPResponse) -> Iterator[Message]:
    """The messages in a stream of server-sent events."""
    data: list[bytes] = []
    size = 0
    while line := response.readline(LARGEST_MESSAGE):
        size += len(line)
        if size > LARGEST_MESSAGE:
            raise ToolError(f"a message of more than {LARGEST_MESSAGE // 2**20} MB")
        bare = line.rstrip(b"\r\n")
        if bare.startswith(b"data:"):
            data.append(bare[5:].removeprefix(b" "))
        elif not bare and data:
            yield from parsed(b"\n".join(data))
            data, size = [], 0
        elif not bare:
            size = 0
    if data:
        yield from parsed(b"\n".join(data))
