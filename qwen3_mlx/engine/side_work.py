"""Work that is no sequence, done between the steps of those that are: vectors and scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from qwen3_mlx.errors import BusyError


class SideWork:
    """Generators that compute, each advanced by one step in its turn.

    What one raises is its own affair: it must not. One that can't come to its end is closed.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._work: deque[Generator[object]] = deque()
        self._stepping: Generator[object] | None = None
        self._closed = 0

    def __len__(self) -> int:
        return len(self._work) + (self._stepping is not None)

    def add(self, work: Generator[object]) -> None:
        """Have `work` done. Raises `BusyError`."""
        if len(self) >= self.most:
            hint = "try again in a while, or start the server with a larger --queue"
            got = f"{len(self)} of them"
            raise BusyError("too many requests are waiting", got=got, hint=hint)
        self._work.append(work)

    def step(self) -> bool:
        """Advance the next one; False if there is none."""
        if not self._work:
            return False
        closed = self._closed
        self._stepping = work = self._work.popleft()
        try:
            next(work)
            if closed == self._closed:
                self._work.append(work)
            else:  # closed from another thread while it ran
                work.close()
        except StopIteration:
            pass
        finally:
            self._stepping = None
        return True

    def close(self) -> None:
        """End all that is here."""
        self._closed += 1
        while self._work:
            self._work.popleft().close()
