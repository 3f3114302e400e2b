"""A connection that doesn't wait for ever: for a request's head, or for who doesn't read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From its beginning, or its next request's first byte, until a request's head is there."""
IDLE_SECONDS = 75
"""How long a connection is kept between two requests: httpx keeps one for 5 s, aiohttp for 15, and
whoever waits longer than its server finds it closed in the moment of asking."""
STUCK_SECONDS = 120.0
"""How long a client may leave unread what was sent to it."""


def timed_protocol() -> type[H11Protocol]:
    """uvicorn's protocol, which by itself sets a limit to keep-alive alone."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Timed(H11Protocol):
        """Closes its connection when nothing has come, or nothing was taken, for too long."""

        timer: asyncio.TimerHandle | None = None
        idle = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._limit(HEAD_SECONDS)

        def data_received(self, data: bytes) -> None:
            if self.idle:
                self._limit(HEAD_SECONDS)
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._limit(None)

        def on_response_complete(self) -> None:
            self._limit(IDLE_SECONDS)
            self.idle = True
            super().on_response_complete()
            if self.cycle is not None and not self.cycle.response_complete:
                self._limit(None)  # the next request had come already
            elif self.conn.trailing_data[0]:  # a part of it
                self._limit(HEAD_SECONDS)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._limit(STUCK_SECONDS)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._limit(None)

        def connection_lost(self, exc: Exception | None) -> None:
            self._limit(None)
            super().connection_lost(exc)

        def _limit(self, seconds: float | None) -> None:
            if self.timer is not None:
                self.timer.cancel()
            late = self.transport.abort
            self.timer = None if seconds is None else self.loop.call_later(seconds, late)
            self.idle = False

    return Timed
