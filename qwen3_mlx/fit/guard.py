"""Checks the memory before it is taken, so that too little of it is an error and not a crash.

MLX (0.32) does not raise such an error everywhere. On the CPU it ignores a failed ``malloc``, and
the process dies of a segmentation fault. On Metal a limit makes MLX drop its reusable buffers and
wait for running work, but refuses nothing: the command buffer fails, or macOS swaps until it
panics. So large allocations ask `require` first; `device.out_of_memory` recognises the rest.
"""

from __future__ import annotations

import os

from qwen3_mlx.errors import OutOfMemoryError, gb
from qwen3_mlx.fit import machine
from qwen3_mlx.fit.machine import Machine

CHECK = "QWEN3_MLX_FIT"
"""The variable that switches the check off (``off``)."""


def checked() -> bool:
    """Whether memory is checked before it is taken: unless `CHECK` is ``off``."""
    return os.environ.get(CHECK, "") != "off"


def require(nbytes: int, doing: str, hint: str | None = None) -> None:
    """Raise `OutOfMemoryError` if this machine has no `nbytes` left, unless `CHECK` is ``off``.

    `doing` completes "out of memory …": ``at 8,192 tokens``, ``while loading``.
    """
    if not checked():
        return
    place = machine.this_machine(swap=True)
    if nbytes > place.available_bytes:
        raise not_enough_memory(nbytes, place, doing, hint)


def not_enough_memory(
    nbytes: int, place: Machine, doing: str, hint: str | None = None
) -> OutOfMemoryError:
    """The error of `require`: `place` has no `nbytes` left for `doing`."""
    return OutOfMemoryError(
        f"out of memory {doing}",
        got=f"{gb(nbytes)} needed, {gb(place.available_bytes)} {place.why}",
        hint=hint,
    )
