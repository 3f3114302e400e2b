"""Times the frames of a turn, and keeps full garbage collections out of it."""

from __future__ import annotations

import gc

FRAME_S = 1 / 22
"""Seconds between the starts of two frames: a second with a late frame still has twenty."""


class Pace:
    """Schedules frames at even intervals; a late frame doesn't delay the following ones."""

    def __init__(self) -> None:
        self._due = 0.0

    def next(self, began: float, now: float) -> float:
        """The time of the next frame, if the last one `began` then and ended `now` (seconds).

        A delay of more than one frame isn't made up for. A quarter of a frame always stays free
        for keys.
        """
        late = began - self._due
        self._due = (self._due if 0 <= late <= FRAME_S else began) + FRAME_S
        return max(self._due, now + FRAME_S / 4)


NEVER = 1_000_000
"""Young collections before a full one: more than happen in a turn."""
_OFTEN = gc.get_threshold()[2]


def collect_all(allowed: bool) -> None:
    """Allow or prevent Python's full garbage collections.

    With the objects of a long answer each of them stops the process, and the model, for 0.25 s
    every few seconds; so they wait for the end of the turn.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _OFTEN if allowed else NEVER)
