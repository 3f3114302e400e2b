"""Time limits of a connection: for a request's head, between requests, and for slow readers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Seconds from the connection's start, or a later request's first byte, to the complete head."""
IDLE_SECONDS = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs (httpx 5 s, aiohttp
15 s), or a client could send a request at the moment when the server closes the connection."""
STUCK_SECONDS = 120.0
"""Seconds that a client may leave sent data unread."""


def timed_protocol() -> type[H11Protocol]:
    """uvicorn's HTTP protocol with all three limits; by itself it limits only keep-alive."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Timed(H11Protocol):
        """Aborts the connection when the client has sent or read nothing for too long."""

        timer: asyncio.TimerHandle | None = None
        idle = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._limit(HEAD_SECONDS)

        def data_received(self, data: bytes) -> None:
            if self.idle:
                self._limit(HEAD_SECONDS)
            super().data_received(data)
            self._limit_again()

        def on_response_complete(self) -> None:
            self.idle = True
            self._limit_again()
            super().on_response_complete()
            if self._answers():  # the next request has already arrived
                self._limit_again()
            elif self.conn.trailing_data[0]:  # a part of the next request has arrived
                self._limit(HEAD_SECONDS)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._limit_again()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._limit_again()

        def connection_lost(self, exc: Exception | None) -> None:
            self._limit(None)
            super().connection_lost(exc)

        def _answers(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _limit_again(self) -> None:
            idle = not self._answers()
            if not idle or self.idle:  # else the limit of a request's head has begun, and holds
                rest = IDLE_SECONDS if idle else None
                self._limit(STUCK_SECONDS if self.flow.write_paused else rest, idle)

        def _limit(self, seconds: float | None, idle: bool = False) -> None:
            if self.timer is not None:
                self.timer.cancel()
            late = self.transport.abort
            self.timer = None if seconds is None else self.loop.call_later(seconds, late)
            self.idle = idle

    return Timed
