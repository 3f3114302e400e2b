"""Checks for free memory before large allocations, so that too little is an error, not a crash.

MLX 0.32 doesn't always raise. On the CPU it ignores a failed ``malloc``, so the process segfaults.
On Metal its memory limit makes it drop cached buffers and wait for running work, but refuses
nothing: the command buffer fails, or macOS swaps until it panics. So large allocations call
`require` first; `device.out_of_memory` recognises MLX's own errors.
"""

from __future__ import annotations

from qwen3_mlx.device.switches import switch
from qwen3_mlx.errors import OutOfMemoryError, gb
from qwen3_mlx.fit import machine
from qwen3_mlx.fit.machine import Machine

CHECK = "QWEN3_MLX_FIT"
"""The environment variable that disables the check with the value ``off``."""


def checked() -> bool:
    """Whether the check is enabled: unless `CHECK` is ``off``. Raises `OptionError`."""
    return switch(CHECK) != "off"


def require(nbytes: int, doing: str, hint: str | None = None) -> None:
    """Raise `OutOfMemoryError` unless `nbytes` are free or the check is disabled.

    doing: completes "out of memory …", such as ``at 8,192 tokens`` or ``while loading``.
    """
    if not checked():
        return
    place = machine.this_machine(swap=True)
    if nbytes > place.available_bytes:
        raise not_enough_memory(nbytes, place, doing, hint)


def not_enough_memory(
    nbytes: int, place: Machine, doing: str, hint: str | None = None
) -> OutOfMemoryError:
    """The error of `require`."""
    return OutOfMemoryError(
        f"out of memory {doing}",
        got=f"{gb(nbytes)} needed, {gb(place.available_bytes)} {place.why}",
        hint=hint,
    )
