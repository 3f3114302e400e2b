"""Whether paths lead to one place on the disk, however they are spelled.

By identity, not by text: a disk that folds case, as on a Mac, has many names for one directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qwen3_mlx.files import resolved

_MOST_LINKS = 40


def same(one: Path, other: Path) -> bool:
    """Whether both are one file or directory, which need not exist if they are spelled alike."""
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def is_within(inner: Path, outer: Path) -> bool:
    """Whether `inner` is `outer` or lies in it."""
    place, outer = resolved(inner), resolved(outer)
    return any(same(one, outer) for one in (place, *place.parents))


def linked_into(directory: Path, target: Path) -> Path | None:
    """An entry of `directory` whose file, or a link on the way there, lies in `target`, or None."""
    try:
        entries = [entry for entry in directory.iterdir() if entry.is_symlink()]
    except OSError:  # no directory, or not there
        return None
    for entry in entries:
        if any(is_within(one.parent, target) for one in _steps(entry)):
            return entry
    return None


def _steps(link: Path) -> Iterator[Path]:
    """Where `link` leads, link by link."""
    for _ in range(_MOST_LINKS):
        try:
            link = link.parent / link.readlink()
        except OSError:  # no link any more
            return
        yield link
