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
    while not place.exists():
        place = place.parent
    if not place.is_dir() or os.access(place, os.W_OK | os.X_OK):
        return  # what is no directory is told by the error of making one in it
    is_locked = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    raise CheckpointError(
        f"{place} can't be written",
        got="a read-only disk" if is_locked else "no permission",
        hint="name a place for the result that can be written",
    )


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
