"""How far something is, on a line of the terminal, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from qwen3_mlx.cli.terminal.screen import Screen

WORTH_SAYING = 2.0
"""`Eta` shows the time left from this many seconds on."""

T = TypeVar("T")


class Eta:
    """Estimates the seconds left: fits a line to the seconds that each unit took.

    A line, not a mean: the tokens of a long prompt look back on ever more others, so each costs
    more than the one before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, start: int = 0) -> None:
        """`start` units were done before the clock began, by an earlier run."""
        self._clock, self._last = clock, (start, clock())
        # sums over the parts seen: how many, their middles x, their seconds a unit y, x², x·y
        self._count = self._x = self._y = self._xx = self._xy = 0.0

    def __call__(self, done: int, total: int) -> str:
        """Note that `done` of `total` is reached; returns ``, 12 s left``, or nothing."""
        before, then = self._last
        now = self._clock()
        if done > before:
            x, y = (before + done) / 2, (now - then) / (done - before)
            self._count += 1
            self._x, self._y = self._x + x, self._y + y
            self._xx, self._xy = self._xx + x * x, self._xy + x * y
            self._last = (done, now)
        left = self._left(done, total)
        return f", {_in_words(left)} left" if left > WORTH_SAYING else ""

    def _left(self, done: int, total: int) -> float:
        if not self._count:
            return 0.0
        mean_x, mean_y = self._x / self._count, self._y / self._count
        spread = self._xx - self._x * mean_x
        slope = max((self._xy - self._x * mean_y) / spread, 0.0) if spread > 0 else 0.0
        return (total - done) * max(mean_y + slope * ((done + total) / 2 - mean_x), 0.0)


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressLine:
    """``label: 43 %, 12 s left`` on a line of a terminal's stderr, from `delay` seconds on."""

    def __init__(
        self,
        screen: Screen,
        label: str = "",
        delay: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen, self._label, self._delay, self._clock = screen, label, delay, clock
        self._began, self._drawn, self._eta = clock(), "", Eta(clock)

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Draw: `done` of `total`, whatever the unit; `detail` stands behind the percentage."""
        left = self._eta(done, total)
        if self._screen.err_is_styled and self._clock() - self._began >= self._delay:
            self._draw(f"{self._label}: {100 * done // max(total, 1)} %{detail}{left}")

    def count(self, done: int) -> None:
        """Draw: so many are done, of nobody knows how many."""
        if self._screen.err_is_styled and self._clock() - self._began >= self._delay:
            self._draw(f"{self._label}: {done:,}")

    def stage(self, label: str, done: int, total: int, detail: str = "") -> None:
        """Draw the progress of one stage of several, each with an estimate of its own."""
        if label != self._label:
            self._label, self._eta = label, Eta(self._clock, done)
        self(done, total, detail)

    def _draw(self, text: str) -> None:
        if text != self._drawn:
            self._screen.line(text)
            self._drawn = text

    def cleared_by(self, items: Iterable[T]) -> Iterator[T]:
        """Pass `items` on, with the line taken away before each."""
        for item in items:
            self.clear()
            yield item

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._screen.line("")
            self._drawn = ""
