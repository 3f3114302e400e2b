"""Work other than sequences, done between decoding steps: vectors, scores and probes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator

from qwen3_mlx.errors import BusyError


class SideWork:
    """Generators of computing steps; each is advanced in turn by one step.

    They must not raise. A generator that can't be completed is closed, by any thread.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.RLock()
        """Held while the queue changes, so not while a generator computes."""
        self._work: deque[Generator[object]] = deque()
        self._stepping: Generator[object] | None = None
        self._closed = 0
        self._our_turn = False

    def __len__(self) -> int:
        return len(self._work) + (self._stepping is not None)

    def add(self, work: Generator[object]) -> None:
        """Queue `work`. Raises `BusyError` if the queue is full."""
        if len(self) >= self.most:
            raise too_many(f"{len(self)} of them")
        self.put(work)

    def put(self, work: Generator[object]) -> None:
        """As `add`, without the limit: for work of a running sequence."""
        with self._lock:
            self._work.append(work)

    def step(self, by_turns: bool = False) -> bool:
        """Advance the next generator; False if none is left or, `by_turns`, other work is due."""
        self._our_turn = not (by_turns and self._our_turn)
        with self._lock:
            if not self._work or not self._our_turn:
                return False
            closed = self._closed  # before the work leaves the queue: `close` may come at any point
            self._stepping = work = self._work.popleft()
        try:
            next(work)
            with self._lock:
                left = closed != self._closed  # `close` was called while it ran
                if not left:
                    self._work.append(work)
            if left:
                work.close()
        except StopIteration:
            pass
        finally:
            self._stepping = None
        return True

    def close(self) -> None:
        """Close all queued generators."""
        with self._lock:
            self._closed += 1
            closing = list(self._work)
            self._work.clear()
        for work in closing:
            work.close()


def begun(work: Generator[object]) -> Generator[object]:
    """`work`, which yields before it does anything; once begun, closing it runs its `finally`."""
    next(work)
    return work


def too_many(got: str) -> BusyError:
    """The error if no more requests may wait; got: their number, in words."""
    hint = "try again in a while, or start the server with a larger --queue"
    return BusyError("too many requests are waiting", got=got, hint=hint)
