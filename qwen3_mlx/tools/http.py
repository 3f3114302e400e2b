"""MCP's HTTP transport: each message is a POST, answered by JSON or a stream of events.

A GET opens a separate stream for messages that the server sends on its own. A stream that the
server closes is opened again, from the last event on.
https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from qwen3_mlx.errors import ToolError, without_secrets
from qwen3_mlx.tools.address import check_headers, checked_address
from qwen3_mlx.tools.event_stream import MOST_RETRY_SECONDS, Place, events, whole
from qwen3_mlx.tools.redirect import moved, path_of
from qwen3_mlx.tools.transport import (
    LARGEST_MESSAGE,
    OUR_OWN,
    Message,
    Receiver,
    SessionOver,
    parsed,
)

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 300.0
"""Longest silence of a stream; the time limit of a call is much shorter."""
RETRY_SECONDS = 1.0
"""The pause before a stream is opened again; it doubles, up to the maximum, while none brings a
message."""
MOST_REDIRECTS = 5
CANCELLED = "notifications/cancelled"
SESSION = "Mcp-Session-Id"


class Http:
    """One session with a server."""

    ended = ""
    """Always empty: a server behind an address may answer again."""

    def __init__(self, url: str, headers: Mapping[str, str], receiver: Receiver) -> None:
        """Makes no connection yet. Raises `OptionError` for an invalid address or header."""
        check_headers(headers, "a server's headers")
        self._url = checked_address(url, "a server's url")
        self._headers, self._receiver = dict(headers), receiver
        self._session: str | None = None
        self._listening: threading.Thread | None = None
        self.version: str | None = None
        self._lock = threading.Lock()
        self._open: set[_Exchange] = set()
        self._waiting: dict[Any, _Exchange | None] = {}
        """The unanswered requests by id, each with the exchange that its answer will come by."""
        self._over = threading.Event()

    def send(self, message: Message) -> None:
        """Send one message, in a new thread; that thread also receives the answer.

        Raises `ToolError` if the session is closed; a request's other errors arrive as responses.
        """
        if self._over.is_set():
            raise ToolError("the server is closed")
        number = message.get("id") if "method" in message else None  # a reply's is the server's
        if number is not None:
            self._waiting[number] = None
        given = (message, number)
        work = threading.Thread(target=self._post, args=given, name="mcp post", daemon=True)
        work.start()
        if number is None:  # what comes later must not overtake a notification,
            work.join(CONNECT_SECONDS)  # and replies must not pile up
        begun = message.get("method") == "notifications/initialized"
        if begun and not (self._listening and self._listening.is_alive()):
            self._listening = threading.Thread(target=self._listen, name="mcp events", daemon=True)
            self._listening.start()
        if message.get("method") == CANCELLED:
            self._give_up(message["params"]["requestId"])

    def _post(self, message: Message, number: Any) -> None:
        place = Place()
        try:
            with self._exchange(number) as exchange:
                answered = self._take(self._answers(exchange, message, place), number)
            until = time.monotonic() + SILENCE_SECONDS
            while not answered and place.last_id and number in self._waiting:
                if self._over.wait(place.retry_s) or time.monotonic() > until:
                    break
                with self._exchange(number) as exchange:
                    answered = self._take(self._events(exchange, place), number)
            if not answered:
                self._failed(number, "something that is no message of MCP", OUR_OWN)
        except ToolError as error:
            self._failed(number, str(error), getattr(error, "mark", None))
        except _BROKEN as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._failed(number, without_secrets(why), OUR_OWN)
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def _give_up(self, number: Any) -> None:
        with self._lock:
            exchange = self._waiting.pop(number, None)
        if exchange is not None:
            exchange.hang_up()

    def _take(self, messages: Iterator[Message], number: Any) -> bool:
        """Pass `messages` to the receiver; returns whether the answer to `number` is among them."""
        answered = False
        for one in messages:
            self._receiver.received(one)
            answered = answered or ("method" not in one and one.get("id") == number)
        return answered

    def _listen(self) -> None:
        """Receive messages that the server sends on its own, if it offers a stream for them."""
        place, pause = Place(), RETRY_SECONDS
        while not self._over.is_set():
            heard = False
            try:
                with self._exchange() as exchange:
                    for one in self._events(exchange, place):
                        self._receiver.received(one)
                        heard = True
            except ToolError:  # the server has no such stream, or the session is over
                return
            except _BROKEN:
                pass  # the server may answer again
            pause = RETRY_SECONDS if heard else min(2 * pause, MOST_RETRY_SECONDS)
            self._over.wait(max(pause, place.retry_s))

    def _failed(self, number: Any, why: str, data: Any = None) -> None:
        if number is not None and not self._over.is_set():
            error = {"code": -32000, "message": why, "data": data}
            self._receiver.received({"jsonrpc": "2.0", "id": number, "error": error})

    @contextlib.contextmanager
    def _exchange(self, number: Any = None) -> Iterator[_Exchange]:
        """A connection for one request; registered for the answer to `number`, if it is given."""
        kind = http.client.HTTPSConnection
        make = kind if self._url.scheme == "https" else http.client.HTTPConnection
        exchange = _Exchange(
            make(self._url.hostname or "", self._url.port, timeout=CONNECT_SECONDS)
        )
        with self._lock:
            self._open.add(exchange)
            if number in self._waiting:
                self._waiting[number] = exchange
        try:
            yield exchange
        finally:
            self._open.discard(exchange)
            exchange.connection.close()

    def _own_headers(self) -> dict[str, str]:
        """The headers of every request: the configured ones, session id and protocol version."""
        headers = dict(self._headers)
        if self._session is not None:
            headers[SESSION] = self._session
        if self.version is not None:
            headers["MCP-Protocol-Version"] = self.version
        return headers

    def _answers(self, exchange: _Exchange, message: Message, place: Place) -> Iterator[Message]:
        """The server's answers to `message`. Raises `ToolError` and the errors in `_BROKEN`."""
        begins = message.get("method") == "initialize"
        headers = {
            **(self._headers if begins else self._own_headers()),
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        body = json.dumps(message).encode()
        response = self._asked(exchange, "POST", headers, body)
        self._session = response.headers.get(SESSION, None if begins else self._session)
        kind = response.headers.get_content_type()
        if kind == "text/event-stream":
            yield from events(response, place)
        elif kind == "application/json" and response.status != 202:
            yield from parsed(whole(response))

    def _events(self, exchange: _Exchange, place: Place) -> Iterator[Message]:
        """The messages of a stream, from the event after `place` on. Raises as `_answers`."""
        headers = {**self._own_headers(), "Accept": "text/event-stream"}
        if place.last_id:
            headers["Last-Event-ID"] = place.last_id
        response = self._asked(exchange, "GET", headers, None)
        if response.headers.get_content_type() != "text/event-stream":
            raise ToolError("the server has no stream of events")
        yield from events(response, place)

    def _asked(
        self, exchange: _Exchange, method: str, headers: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        """The response; a POST is redirected within the server. Raises as `_answers`."""
        url = begun = self._url
        for _ in range(MOST_REDIRECTS):
            response = exchange.ask(method, path_of(url), headers, body)
            # a GET, whose stream is optional, may lead to a page for people
            place = response.headers.get("Location", "") if method == "POST" else ""
            if response.status not in (307, 308) or not (there := moved(url, place)):
                break
            url = there
            response.read(LARGEST_MESSAGE)
            exchange.connection.close()
        if response.status >= 300:
            raise _refused(response, SESSION in headers)
        if url != begun:  # another request may have moved meanwhile
            self._url = url
        return response

    def close(self) -> None:
        """Abort all requests, and tell the server that the session has ended (DELETE)."""
        if self._over.is_set():
            return
        self._over.set()
        with self._lock:
            left = list(self._open)
        for exchange in left:
            exchange.hang_up()
        if self._session is not None:
            with contextlib.suppress(*_BROKEN), self._exchange() as exchange:
                exchange.connection.timeout = exchange.silence_s = 2.0
                exchange.ask("DELETE", path_of(self._url), self._own_headers()).read(1_000)


_BROKEN = (OSError, http.client.HTTPException, ValueError)
"""The errors of a connection that can't be opened, breaks, or doesn't speak HTTP."""


class _Exchange:
    """One request over its own connection."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection, self.silence_s = connection, SILENCE_SECONDS
        self._sock: socket.socket | None = None

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        """Send the request; returns the response once its headers arrive. Raises as `_BROKEN`."""
        self.connection.request(method, path, body, headers)
        # Kept here: for a response that closes the connection, `connection.sock` becomes None.
        self._sock = self.connection.sock
        if self._sock is not None:
            self._sock.settimeout(self.silence_s)
        return self.connection.getresponse()

    def hang_up(self) -> None:
        """Shut the socket down, which wakes the thread that reads from it."""
        with contextlib.suppress(OSError):
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)


def _refused(response: http.client.HTTPResponse, in_session: bool) -> ToolError:
    said = response.read(2_000).decode("utf-8", "replace").strip()
    hint = None
    if response.status in (401, 403):
        hint = 'it wants to know who asks: "headers": {"Authorization": "Bearer …"}'
    if response.status == 404 and in_session:
        return SessionOver("the server's session is over", got=f"404 {said[:300]}".strip())
    if place := response.headers.get("Location", "")[:200]:
        said = f"to {place} {said}"
        hint = "this redirect is not followed: if you trust the address, name it as url"
    got = without_secrets(f"{response.status} {response.reason} {said[:300]}".strip())
    return ToolError("the server refused", got=got, hint=hint)
