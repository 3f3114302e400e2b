"""Asks whether a place can take a conversion's result: may it be written, and is there space?

Asked before the first byte is written, and by a dry run.
"""

from __future__ import annotations

import os
from pathlib import Path

from qwen3_mlx.errors import CheckpointError, gb
from qwen3_mlx.quantize.disk import Disk

MARGIN = 16 * 2**20
"""Disk bytes reserved for tokenizer files, card and record."""


def check_writable(out: Path) -> None:
    """Raise `CheckpointError` if the directory of `out` can't be made or written."""
    place = out.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    if got := _why_not(place):
        hint = "name a place for the result that can be written"
        raise CheckpointError(f"{place} can't be written", got=got, hint=hint)


def _why_not(place: Path) -> str:
    """Why nothing can be written to `place`; "" if it can."""
    if not place.is_dir():
        is_link = place.is_symlink() and not place.exists()
        return "a link that leads nowhere" if is_link else "a file where a directory must be"
    disk = os.statvfs(place)
    if not os.access(place, os.W_OK | os.X_OK):
        return "a read-only disk" if disk.f_flag & os.ST_RDONLY else "no permission"
    return "" if disk.f_blocks else "a place that keeps no files"  # /proc, also for root


def check_space(disk: Disk, out: Path, part: Path, nbytes: int) -> None:
    """Raise `CheckpointError` if the disk is too small for `nbytes` of files in `part`.

    What an earlier run left in `part` is kept, written over or removed: its bytes count as free.
    """
    needed = MARGIN + nbytes - _held(part)
    free = disk.free_bytes(part)
    if free < needed:
        raise CheckpointError(
            "not enough space on the disk",
            got=f"{gb(free, 2)} free at {out.parent}",
            expected=f"{gb(needed, 2)}",
            hint="free some space, or choose an --out on another disk",
        )


def _held(part: Path) -> int:
    return sum(file.stat().st_size for file in part.glob("*") if file.is_file())
