"""Detects that the machine slept: a GPU's faults and timings from that time mean nothing."""

from __future__ import annotations

import time

SLEPT_S = 5.0
"""Seconds that the wall clock may gain on the monotonic clock, which stops during sleep."""

Moment = tuple[float, float]
"""Seconds of the wall clock, and of the monotonic clock."""


def now() -> Moment:
    """The current `Moment`, for `slept`."""
    return time.time(), time.monotonic()


def slept(since: Moment) -> bool:
    """Whether the machine has slept since then; setting the wall clock forward counts too."""
    wall, awake = (b - a for a, b in zip(since, now(), strict=True))
    return wall - awake > SLEPT_S
