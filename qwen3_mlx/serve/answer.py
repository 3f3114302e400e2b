"""Runs a request's turn and sends the answer, streamed or whole, until the client disconnects."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from qwen3_mlx.events import Done, Reply
from qwen3_mlx.serve.api_error import ApiError, Dialect, from_exception
from qwen3_mlx.serve.ask import Ask
from qwen3_mlx.serve.desk import Desk, Open
from qwen3_mlx.serve.guard import Receive, Scope, Send
from qwen3_mlx.serve.sse import Writer, encoded
from qwen3_mlx.serve.usage import Usage

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MakeWriter = Callable[[str, str, Ask], Writer]
T = TypeVar("T")
MOST_LOGGED = 1000
_LOGGED: set[str] = set()
"""Lists of unknown fields that have been logged already: each list is logged once."""
_LOG = logging.getLogger(__name__)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response whose body is `value` as JSON."""
    from starlette.responses import Response

    return Response(encoded(value), status, headers, media_type="application/json")


def error_response(error: BaseException, dialect: Dialect) -> Response:
    """The response to `error`, in the format of `dialect`; logs the error."""
    found = from_exception(error)
    _log(error, found)
    return json_response(found.body(dialect), found.status, found.headers)


def _log(error: BaseException, found: ApiError) -> None:
    """Log the traceback of an unforeseen error, without its message, which may quote a prompt."""
    if found.status != 500:
        _LOG.debug("refused with %d (%s)", found.status, found.code or type(error).__name__)
        return
    frames = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("a turn failed of %s\n%s", type(error).__name__, frames)


async def body_of(request: Request) -> Any:
    """Parse the JSON body of a request. Raises `ApiError` (400); NaN and infinities are refused."""
    body = await request.body()
    try:
        return json.loads(body, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        got = str(error).partition(";")[0][:120]
        said = f"the body is not valid JSON: got {got}, expected an object in UTF-8"
        raise ApiError(400, said, code="invalid_json") from None


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits)


def ignored_header(ignored: Sequence[str]) -> dict[str, str]:
    """The response header that lists the ignored fields, at most 500 characters; {} if none."""
    if not ignored:
        return {}
    names = ", ".join(name if name.strip() else repr(name) for name in ignored)
    names = names[:500].encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in names).strip()  # as a header must be
    if shown not in _LOGGED and len(_LOGGED) < MOST_LOGGED:
        _LOGGED.add(shown)
        _LOG.info("fields that are not known and were ignored: %s", shown)
    return {"x-qwen3-mlx-ignored": shown}


async def answer(
    desk: Desk, request: Request, ask: Ask, prefix: str, make: MakeWriter, dialect: Dialect
) -> Response:
    """Run the turn that `ask` describes. Raises its error, unless a stream has already begun."""
    size = len(await request.body())
    opened = await desk.begin(f"{prefix}{secrets.token_hex(12)}", ask, size)
    try:
        known = replace(ask, sampling=opened.turn.request.sampling)
        writer = make(opened.id, desk.model.name, known)
        headers = ignored_header(ask.ignored)
        if not ask.stream:
            return await _whole(opened, request, writer, headers)
        await opened.admission()
    except BaseException:
        opened.close()
        raise
    return _stream_response(opened, writer, headers)


async def until_gone(
    receive: Receive, work: Coroutine[Any, Any, T], leave: Callable[[], object] = lambda: None
) -> T | None:
    """The result of `work`; if the client disconnects first, `work` is cancelled: None.

    `leave` is called before the cancelled `work` is awaited, so the turn is not computed meanwhile.
    """
    gone = asyncio.create_task(_gone(receive))
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leave()
        for task in (gone, working):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _stream_response(opened: Open, writer: Writer, headers: dict[str, str]) -> Response:
    """A streaming response; starlette's own notices a disconnected client later than this one."""
    from starlette.responses import Response

    class Stream(Response):
        """Sends the server-sent events of one turn."""

        media_type = "text/event-stream"

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await until_gone(receive, self._write(send), opened.close)
            finally:
                opened.close()

        async def _write(self, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for body in _pieces(opened, writer):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    found = Stream(headers=headers | {"cache-control": "no-store", "x-accel-buffering": "no"})
    del found.headers["content-length"]
    return found


async def _pieces(opened: Open, writer: Writer) -> AsyncIterator[bytes]:
    try:
        if begin := writer.begin(Usage.of(opened.turn)):
            yield b"".join(begin)
        async for event in opened.events():
            if event is None:
                yield writer.alive(*opened.progress)
            elif isinstance(event, Done):
                yield b"".join(writer.end(event, Usage.of(opened.turn)))
            elif pieces := writer.take(event):
                yield b"".join(pieces)
    except Exception as error:
        found = from_exception(error)
        _log(error, found)
        yield b"".join(writer.fail(found))


async def _whole(
    opened: Open, request: Request, writer: Writer, headers: dict[str, str]
) -> Response:
    try:
        reply = await until_gone(request.receive, _collect(opened), opened.close)
        if reply is None:
            raise ApiError(499, "the client went away")
        return json_response(writer.whole(reply, Usage.of(opened.turn)), headers=headers)
    finally:
        opened.close()


async def _collect(opened: Open) -> Reply:
    return Reply.from_events([event async for event in opened.events() if event is not None])
