"""Whether the machine slept: what a GPU did meanwhile, or how long it took, says nothing then."""

from __future__ import annotations

import time

SLEPT_S = 5.0
"""By how much the clock on the wall may be ahead of the one that stops when the machine sleeps."""

Moment = tuple[float, float]
"""By the clock on the wall, and by the one that stops."""


def now() -> Moment:
    """This moment, for `slept`."""
    return time.time(), time.monotonic()


def slept(since: Moment) -> bool:
    """Whether the machine slept since then; setting its clock forward counts as that."""
    wall, awake = (b - a for a, b in zip(since, now(), strict=True))
    return wall - awake > SLEPT_S
