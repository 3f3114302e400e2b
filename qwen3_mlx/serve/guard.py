"""Access control: checks a request's host, origin, key, content type and body size."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from qwen3_mlx.serve.api_error import ApiError, Dialect
from qwen3_mlx.serve.sse import encoded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MOST_BODY = 32 * 2**20
MOST_BODIES = 8 * MOST_BODY
"""Bytes of all bodies that are being read at the same time."""
BODY_SECONDS = 30.0
OPEN_PATHS = frozenset({"/", "/health"})
"""Paths that need no key: the web page, which contains no data, and the health check."""

MOST_REFUSED = 100
"""Most hosts and origins of which the log says that they were refused."""

_LOG = logging.getLogger(__name__)
_SLASHES = re.compile("/+")
_NAME = re.compile(r"[\w.:-]+")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::\d+)?")


@dataclass(frozen=True)
class Rules:
    """Which requests are allowed. Hosts are names without a port; origins have scheme and port."""

    hosts: frozenset[str] = LOOPBACK
    origins: frozenset[str] = field(default_factory=frozenset)
    key: str | None = None


class Guard:
    """ASGI middleware: forwards the requests that the rules allow, and answers the others."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app, self.rules = app, rules
        self._reading = 0
        self._refused: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection; only HTTP requests are checked."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = {**scope, "path": plain_path(scope["path"])}
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        said = {name: value.decode("latin-1") for name, value in headers.items()}
        origin = said.get("origin")
        shared = origin if origin in self.rules.origins else None

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_shared(shared)]
            await send(message)

        try:
            self._check_place(said, origin)
            if scope["method"] == "OPTIONS" and shared is not None:
                await _answer(send_shared, 204, b"")
                return
            self._check_key(scope["path"], said)
            if scope["method"] == "POST":
                receive = await self._body(said, receive)
        except ApiError as error:
            self._log(error)
            await _answer_error(send_shared, error, dialect_of(scope["path"], said))
            return
        await self.app(scope, receive, send_shared)

    def _log(self, error: ApiError) -> None:
        """Log once whom a flag would let in: a browser shows its page no reason."""
        if error.code in ("wrong_host", "wrong_origin") and len(self._refused) < MOST_REFUSED:
            if error.message not in self._refused:
                _LOG.info("refused: %s", error.message.replace("\n", "; "))
            self._refused.add(error.message)

    def _check_place(self, said: dict[str, str], origin: str | None) -> None:
        """Refuse pages of other sites (Origin), even under a name that resolves to us (Host)."""
        name = host_name(said.get("host", ""))
        if name not in self.rules.hosts:
            message = f"this server doesn't answer for the host {said.get('host', '')[:80]!r}"
            hint = f"if that is this machine, serve with --allow-host {name[:80]}"
            plain = _NAME.fullmatch(name)
            raise ApiError(421, f"{message}\nhint: {hint}" if plain else message, code="wrong_host")
        if origin is None or origin in self.rules.origins:
            return
        if origin.partition("://")[2] != said.get("host"):
            hint = f"if that page may ask, serve with --origin {origin[:80]}"
            if "://" not in origin:
                hint = "a page that has no origin, such as a file, can't be told from any other"
            said_so = f"the origin {origin[:80]!r} is not allowed\nhint: {hint}"
            raise ApiError(403, said_so, code="wrong_origin")

    def _check_key(self, path: str, said: dict[str, str]) -> None:
        key = self.rules.key
        if key is None or path in OPEN_PATHS:
            return
        bearer = said.get("authorization", "")
        given = [bearer[7:]] if bearer[:7].lower() == "bearer " else []
        given += [said["x-api-key"]] if "x-api-key" in said else []
        if not any(secrets.compare_digest(one.encode(), key.encode()) for one in given):
            message = "the key is wrong" if given else "the key is missing"
            hint = "send it as Authorization: Bearer …, or as x-api-key"
            raise ApiError(401, f"{message}\nhint: {hint}", code="invalid_api_key")

    async def _body(self, said: dict[str, str], receive: Receive) -> Receive:
        """Read the whole body, limited in size and time; returns a `receive` that replays it.

        Raises `ApiError`: 415, 413, 408, 400 or 503.
        """
        kind = said.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            wrong = f"content-type: got {kind[:60]!r}, expected application/json"
            raise ApiError(415, f"{wrong}\nhint: with curl, -H 'content-type: application/json'")
        packed = said.get("content-encoding", "").strip().lower()
        if packed not in ("", "identity"):
            wrong = f"content-encoding: got {packed[:60]!r}, expected identity"
            raise ApiError(415, f"{wrong}\nhint: send the body uncompressed")
        if (size := said.get("content-length", "0")).isdigit() and int(size) > MOST_BODY:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._read(receive)
        except TimeoutError:
            late = f"the body did not come in time: expected within {BODY_SECONDS:g} seconds"
            raise ApiError(408, late) from None
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_rest() -> Message:
            return first.pop() if first else await receive()

        return receive_rest

    async def _read(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client went away")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                self._reading += len(parts[-1])
                if size > MOST_BODY:
                    raise _too_large()
                if self._reading > MOST_BODIES:
                    raise ApiError(503, "too many bodies are being read", code="overloaded")
                if not message.get("more_body"):
                    return b"".join(parts)
        finally:
            self._reading -= size


def _too_large() -> ApiError:
    hint = "no context holds so much text; files and images are not read here"
    return ApiError(413, f"the body is larger than {MOST_BODY:,} bytes\nhint: {hint}")


def plain_path(path: str) -> str:
    """`path` without doubled slashes and one at its end, which base URLs and clients leave."""
    return _SLASHES.sub("/", path).rstrip("/") or path


def host_name(host: str) -> str:
    """The lower-case name in a Host header, without port and IPv6 brackets; "" if invalid."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else ""


def dialect_of(path: str, said: Mapping[str, str]) -> Dialect:
    """The dialect in which errors of a path are written; `said` are the request's headers.

    Both libraries ask ``/v1/models``, and for paths that nobody serves: one of them by a header.
    """
    anthropic = path.startswith("/v1/messages") or "anthropic-version" in said
    return "anthropic" if anthropic else "openai"


def _shared(origin: str | None) -> list[tuple[bytes, bytes]]:
    if origin is None:
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key, *"),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-expose-headers", b"retry-after, x-qwen3-mlx-ignored"),
        (b"vary", b"origin"),
    ]


async def _answer_error(send: Send, error: ApiError, dialect: Dialect) -> None:
    more = [(k.encode(), v.encode()) for k, v in error.headers.items()]
    await _answer(send, error.status, encoded(error.body(dialect)), more)


async def _answer(
    send: Send, status: int, body: bytes, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-length", str(len(body)).encode()), *(more or [])]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
