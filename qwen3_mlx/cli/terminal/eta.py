"""How long something will still take, from how long its parts took."""

from __future__ import annotations

import time
from collections.abc import Callable

WORTH_SAYING = 2.0
"""Seconds left from which it is said."""


class Eta:
    """Fits a line to the seconds that each unit took, and adds up what is left.

    A line, not a mean: the tokens of a long prompt look back on ever more others, so each costs
    more than the one before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, (0, clock())
        self._parts: list[tuple[float, float]] = []  # middle of a part, its seconds a unit

    def __call__(self, done: int, total: int) -> str:
        """Take note that `done` of `total` is reached; returns ``, 12 s left``, or nothing."""
        before, then = self._last
        now = self._clock()
        if done > before:
            self._parts.append(((before + done) / 2, (now - then) / (done - before)))
            self._last = (done, now)
        left = self._left(done, total)
        return f", {_words(left)} left" if left > WORTH_SAYING else ""

    def _left(self, done: int, total: int) -> float:
        if not self._parts:
            return 0.0
        mean_at = sum(at for at, _ in self._parts) / len(self._parts)
        mean = sum(cost for _, cost in self._parts) / len(self._parts)
        spread = sum((at - mean_at) ** 2 for at, _ in self._parts)
        slope = sum((at - mean_at) * (cost - mean) for at, cost in self._parts)
        slope = max(slope / spread, 0.0) if spread else 0.0
        return (total - done) * max(mean + slope * ((done + total) / 2 - mean_at), 0.0)


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
