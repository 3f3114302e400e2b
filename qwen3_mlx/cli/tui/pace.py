"""Times the frames of a turn, and keeps full garbage collections out of it."""

from __future__ import annotations

import gc

FRAME_S = 1 / 22
"""Seconds from one frame's beginning to the next one's: so that a second in which one comes late
still has twenty."""


class Pace:
    """Frames at even distances. One that comes late doesn't put off those behind it."""

    def __init__(self) -> None:
        self._due = 0.0

    def next(self, began: float, now: float) -> float:
        """When a frame is due if the last one `began` then and was painted by `now`.

        A stop of more than a frame isn't made up for, and keys are heard in between, whatever a
        frame takes.
        """
        late = began - self._due
        self._due = (self._due if 0 <= late <= FRAME_S else began) + FRAME_S
        return max(self._due, now + FRAME_S / 4)


NEVER = 1_000_000
"""Collections of young objects before one of all: more than a turn has."""
_OFTEN = gc.get_threshold()[2]


def collect_all(allowed: bool) -> None:
    """Let Python's collector look through all objects now and then, or only through new ones.

    Of a long answer there are so many that a look stops everything for a quarter of a second, the
    model too, every few seconds. So it waits for the end of the turn.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _OFTEN if allowed else NEVER)
