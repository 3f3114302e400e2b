"""Draws progress on one line of the terminal, with the estimated time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from qwen3_mlx.cli.terminal.screen import Screen

WORTH_SAYING = 2.0
"""`Eta` shows the time left only above this many seconds."""

T = TypeVar("T")


class Eta:
    """Estimates the seconds left by fitting a line to the seconds per unit.

    A mean would be too low: in a long prompt every token attends to more others than the last.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, start: int = 0) -> None:
        """`start` units were done before the clock began, by an earlier run."""
        self._clock, self._last = clock, (start, clock())
        # Sums over the measured parts: count, midpoints x, seconds per unit y, x², x·y.
        self._count = self._x = self._y = self._xx = self._xy = 0.0

    def __call__(self, done: int, total: int) -> str:
        """Record that `done` of `total` units are done; returns ``, 12 s left`` or ""."""
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
    """``label: 43 %, 12 s left`` on a terminal's stderr, shown after `delay` seconds."""

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
        """Draw `done` of `total` as a percentage, followed by `detail`."""
        left = self._eta(done, total)
        if self._screen.err_is_styled and self._clock() - self._began >= self._delay:
            self._draw(f"{self._label}: {100 * done // max(total, 1)} %{detail}{left}")

    def count(self, done: int) -> None:
        """Draw the count `done`, for an unknown total."""
        if self._screen.err_is_styled and self._clock() - self._began >= self._delay:
            self._draw(f"{self._label}: {done:,}")

    def stage(self, label: str, done: int, total: int, detail: str = "") -> None:
        """Draw the progress of one of several stages; a new label starts a new estimate."""
        if label != self._label:
            self._label, self._eta = label, Eta(self._clock, done)
        self(done, total, detail)

    def _draw(self, text: str) -> None:
        if text != self._drawn:
            self._screen.line(text)
            self._drawn = text

    def cleared_by(self, items: Iterable[T]) -> Iterator[T]:
        """Pass `items` on, clearing the line before each."""
        for item in items:
            self.clear()
            yield item

    def clear(self) -> None:
        """Erase the line."""
        if self._drawn:
            self._screen.line("")
            self._drawn = ""
