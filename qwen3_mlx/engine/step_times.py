"""Measures decoding steps, and derives how long a prompt's chunk between two steps may take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import mlx.core as mx

from qwen3_mlx.engine.fair import CHUNK_SECONDS, CHUNK_STEPS


class StepTimes:
    """Times steps by `clock`, including the pass that each leaves pending for the next step."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: deque[float] = deque(maxlen=8)
        self._ended = self._behind = 0.0

    @property
    def waited(self) -> float:
        """Seconds spent waiting for the last step's pending pass."""
        return self._behind

    def chunk_seconds(self) -> float:
        """The seconds that a chunk may take now; waits for the pass of the last step.

        It uses the fastest recent step: one that the machine delayed must not permit longer chunks.
        """
        began = self._clock()
        mx.synchronize()  # this time belongs to the step, not to the chunk
        self._behind = self._clock() - began
        return max(CHUNK_SECONDS, CHUNK_STEPS * min(self._last, default=0.0))

    def ended(self, began: float) -> float:
        """Note a step from `began` to now; returns the seconds since the previous step's end."""
        now, before = self._clock(), self._ended
        if before:
            self._last.append(now - began + self._behind)
        self._ended, self._behind = now, 0.0
        return now - before if before else 0.0

    def pause(self) -> None:
        """Note that no sequence steps now: the next step has no predecessor."""
        self._ended = self._behind = 0.0
