"""How long the steps of those that answer take, and so what a chunk between two of them may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import mlx.core as mx

from qwen3_mlx.engine.fair import CHUNK_SECONDS, CHUNK_STEPS


class StepTimes:
    """Times steps by `clock`, each with the pass that it leaves behind for the next one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: deque[float] = deque(maxlen=8)
        self._ended = self._behind = 0.0

    @property
    def waited(self) -> float:
        """Seconds of the last step's pass that were waited for since."""
        return self._behind

    def chunk_seconds(self) -> float:
        """What a chunk may take that is read now; waits for the pass of the last step.

        By the quickest of the last steps: one that the machine held up gives no room.
        """
        began = self._clock()
        mx.synchronize()  # its time is the step's, not the chunk's
        self._behind = self._clock() - began
        return max(CHUNK_SECONDS, CHUNK_STEPS * min(self._last, default=0.0))

    def ended(self, began: float) -> float:
        """Note a step that `began` then and has ended now; returns the seconds since the last."""
        now, before = self._clock(), self._ended
        if before:
            self._last.append(now - began + self._behind)
        self._ended, self._behind = now, 0.0
        return now - before if before else 0.0

    def pause(self) -> None:
        """Note that nobody steps: the next step follows none."""
        self._ended = self._behind = 0.0
