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
        self._our_turn = False

    def __len__(self) -> int:
        return len(self._work) + (self._stepping is not None)

    def add(self, work: Generator[object]) -> None:
        """Have `work` done. Raises `BusyError`."""
        if len(self) >= self.most:
            raise too_many(f"{len(self)} of them")
        self.put(work)

    def put(self, work: Generator[object]) -> None:
        """As `add`, of what belongs to a sequence that runs: for that there is always room."""
        self._work.append(work)

    def step(self, by_turns: bool = False) -> bool:
        """Advance the next one; False if there is none, or it is the turn of something else."""
        self._our_turn = not (by_turns and self._our_turn)
        if not self._work or not self._our_turn:
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


def too_many(got: str) -> BusyError:
    """What is raised where no more can wait."""
    hint = "try again in a while, or start the server with a larger --queue"
    return BusyError("too many requests are waiting", got=got, hint=hint)
