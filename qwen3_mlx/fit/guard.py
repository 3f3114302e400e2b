"""Running out of memory as an error, not as a crash: limits, a look ahead, and who says it.

MLX (0.32) gives no such error by itself everywhere. On the CPU a failed ``malloc`` is not looked
at, and the process dies of a segmentation fault. On Metal a limit makes MLX drop what it keeps
for reuse and wait for running work, but it refuses nothing; the command buffer fails, or macOS
swaps until it panics. So what is about to need much memory asks `require` first, and what slips
through is recognised in `engine.out_of_memory`.
"""

from __future__ import annotations

import os

from qwen3_mlx.errors import OutOfMemoryError, gb
from qwen3_mlx.fit import machine
from qwen3_mlx.fit.machine import Machine

CHECK = "QWEN3_MLX_FIT"
"""The variable that, set to ``off``, lets pass what does not seem to fit."""


def checked() -> bool:
    """Whether memory is looked at before it is taken: unless `CHECK` is ``off``."""
    return os.environ.get(CHECK, "") != "off"


def require(nbytes: int, doing: str, hint: str | None = None) -> None:
    """Raise `OutOfMemoryError` if `nbytes` more are not to be had for `doing`.

    `doing` completes "out of memory …": ``at 8,192 tokens``, ``while loading``. Where the figures
    are wrong, `CHECK` set to ``off`` lets everything pass.
    """
    if not checked():
        return
    place = machine.this_machine(swap=True)
    if nbytes > place.available_bytes:
        raise not_enough_memory(nbytes, place, doing, hint)


def not_enough_memory(
    nbytes: int, place: Machine, doing: str, hint: str | None = None
) -> OutOfMemoryError:
    """The error that `nbytes` are not to be had in `place` for `doing`, as in `require`."""
    return OutOfMemoryError(
        f"out of memory {doing}",
        got=f"{gb(nbytes)} needed, {gb(place.available_bytes)} {place.why}",
        hint=hint,
    )
