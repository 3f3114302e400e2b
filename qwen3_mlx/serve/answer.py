"""Answers a request by a turn: streamed or whole, and not at all once its client is gone."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qwen3_mlx.events import Done, Event, Reply
from qwen3_mlx.serve.api_error import ApiError, Dialect, from_exception
from qwen3_mlx.serve.ask import Ask
from qwen3_mlx.serve.desk import Desk, Open
from qwen3_mlx.serve.sse import Writer
from qwen3_mlx.serve.usage import Usage

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MakeWriter = Callable[[str, str, Ask], Writer]
_LOG = logging.getLogger(__name__)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A whole answer."""
    from starlette.responses import Response

    body = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Response(body, status, headers, media_type="application/json")


def error_response(error: BaseException, dialect: Dialect) -> Response:
    """What went wrong, as `dialect` says it."""
    if not isinstance(error, ApiError):
        _LOG.info("a request failed: %s", type(error).__name__)
    found = from_exception(error)
    if found.status == 500:
        _LOG.error("a turn failed", exc_info=error)
    return json_response(found.body(dialect), found.status, found.headers)


async def body_of(request: Request) -> Any:
    """The JSON of a request. Raises `ApiError`."""
    body = await request.body()
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None


def ignored_header(ask: Ask) -> dict[str, str]:
    """The fields that nobody knows, so that their sender can find out."""
    if not ask.ignored:
        return {}
    names = ", ".join(ask.ignored)[:500].encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in names)
    _LOG.info("fields that are not known and were ignored: %s", shown)
    return {"x-qwen3-mlx-ignored": shown}


async def answer(
    desk: Desk, request: Request, ask: Ask, prefix: str, make: MakeWriter, dialect: Dialect
) -> Response:
    """Run the turn that `ask` wants. Raises what it is refused for before it begins."""
    from starlette.responses import StreamingResponse

    id = f"{prefix}{secrets.token_hex(12)}"
    opened = await desk.begin(id, ask)
    try:
        writer = make(id, desk.model.name, ask)
        headers = ignored_header(ask)
        if not ask.stream:
            return await _whole(opened, request, writer, headers)
        await opened.admission()
    except BaseException:
        opened.close()
        raise
    headers |= {"cache-control": "no-store", "x-accel-buffering": "no"}
    stream = _stream(opened, writer)
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


async def _stream(opened: Open, writer: Writer) -> AsyncIterator[bytes]:
    events = opened.events()
    try:
        for piece in writer.begin(Usage.of(opened.turn)):
            yield piece
        async for event in events:
            for piece in _pieces(opened, writer, event):
                yield piece
    except (asyncio.CancelledError, GeneratorExit):
        opened.desk.metrics.gone += 1
        raise
    except Exception as error:
        found = from_exception(error)
        if found.status == 500:
            _LOG.error("a turn failed in mid-stream", exc_info=error)
        for piece in writer.fail(found):
            yield piece
    finally:
        opened.close()


def _pieces(opened: Open, writer: Writer, event: Event | None) -> list[bytes]:
    if event is None:
        return [writer.alive(*opened.progress)]
    if isinstance(event, Done):
        return writer.end(event, Usage.of(opened.turn))
    return writer.take(event)


async def _whole(
    opened: Open, request: Request, writer: Writer, headers: dict[str, str]
) -> Response:
    gone = asyncio.create_task(_gone(request))
    collecting = asyncio.create_task(_collect(opened))
    try:
        await asyncio.wait({gone, collecting}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            opened.desk.metrics.gone += 1
            raise ApiError(499, "the client went away")
        reply = collecting.result()
        return json_response(writer.whole(reply, Usage.of(opened.turn)), headers=headers)
    finally:
        opened.close()
        for task in (gone, collecting):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _collect(opened: Open) -> Reply:
    found: list[Event] = []
    async for event in opened.events():
        if event is not None:
            found.append(event)
    return Reply.from_events(found)
