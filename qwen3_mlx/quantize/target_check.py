"""Checks what a conversion would replace or remove: only what a conversion may have written.

Nothing else is removed, with ``--force`` either: a wrong ``--out`` must not cost a user's files.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from qwen3_mlx.errors import OptionError, shown
from qwen3_mlx.files import is_utf8, open_regular, resolved
from qwen3_mlx.quantize.checkpoint_entries import RECORD, entries_of, foreign_entry, lacking
from qwen3_mlx.quantize.same_place import is_within, linked_into, same

__all__ = ["RECORD"]

_LONGEST = ".states.safetensors.part"
"""The longest end of a name beside the result; a dot goes before it."""
_MOST = 255 - len(f".{_LONGEST}")
"""Bytes of a result's name, as file systems have 255 for one."""
_ANOTHER = "name another --out"
_AWAY = "move it away, or name another --out: the conversion needs this name"


def check_place(out: Path) -> None:
    """Raise `OptionError` if `out` can't be a directory of its own, or is no directory now."""
    _check_name(out)
    place, here, home = resolved(out), resolved(Path.cwd()), _home()
    kept = [("the current directory", here), ("the home directory", home)]
    known = [(name, inner) for name, inner in kept if inner is not None]
    what = next((name for name, inner in known if same(place, inner)), None)
    for name, inner in known:
        if what is None and is_within(inner, place):
            what = f"a directory above {name}"
    if what is None and out.name in ("", ".."):
        what = "a path that doesn't end in a name"
    if what is not None:
        hint = "name a new directory, for example: --out model-4bit"
        raise OptionError(f"--out is {what}", got=str(out), expected="a new directory", hint=hint)
    if out.is_symlink():
        hint = "name the directory that it leads to, or another --out"
        raise OptionError("--out is a link", got=str(out), expected="a new directory", hint=hint)
    if out.exists() and not out.is_dir():
        raise OptionError(
            "--out is no directory", got=str(out), expected="a new directory", hint=_ANOTHER
        )


def _check_name(out: Path) -> None:
    """Raise `OptionError` if `out` is too long for names beside it, or no path that MLX opens."""
    if not is_utf8(out):
        raise OptionError("--out is no UTF-8", got=shown(out), hint=_ANOTHER)
    nbytes = len(os.fsencode(out.name))
    if nbytes > _MOST:
        got, expected = f"{nbytes} bytes", f"at most {_MOST}, as files beside it have longer names"
        raise OptionError("--out is too long a name", got=got, expected=expected, hint=_ANOTHER)
    try:
        out.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OptionError("--out is too long a path", got=shown(out), hint=_ANOTHER) from None


def check_apart(source: Path, out: Path, *removed: Path, what: str = "the source") -> None:
    """Raise `OptionError` if writing `out` would touch `source`, which is called `what`.

    removed: directories beside `out` that a conversion writes or removes too.
    """
    hint = f"{what} is never touched: name a directory outside it"
    if is_within(out, source) or any(is_within(source, one) for one in (out, *removed)):
        raise OptionError(f"--out lies in {what}", got=str(out), hint=hint)
    for one in (out, *removed):
        link = linked_into(source, one) if one.exists() else None
        if link is not None:
            got = f"{link}, a link into {one}"
            raise OptionError(f"--out holds files of {what}", got=got, hint=hint)


def is_empty(out: Path) -> bool:
    """Whether the directory `out` is missing or empty. Raises `OptionError`."""
    try:
        return not out.exists() or not entries_of(out)
    except OSError as error:
        raise _unreadable(out, error) from None


def check_replaceable(out: Path, force: bool) -> None:
    """Raise `OptionError` unless the directory `out` is empty, or a checkpoint and `force`."""
    if is_empty(out):
        return
    if not force:
        hint = "choose another --out, or replace it with --force"
        raise OptionError("the target exists", got=str(out), hint=hint)
    try:
        fault = foreign_entry(out) or lacking(out)
    except OSError as error:
        raise _unreadable(out, error) from None
    if fault is not None:
        raise OptionError(
            f"{out} is not replaced, not even by --force",
            got=fault,
            expected="a checkpoint and nothing else",
            hint="move what you want to keep, remove the directory yourself, or " + _ANOTHER,
        )


def check_in_the_way(path: Path, *, known: bool, force: bool) -> None:
    """Raise `OptionError` if `path`, a name that a conversion removes, is the user's.

    known: a conversion's files beside it say that it wrote `path`, perhaps not all of it.
    Otherwise a record must be there; with `force` any checkpoint will do.
    """
    if path.is_symlink() or (path.exists() and not _is_ours(path, known, force)):
        got = f"{path}, which no conversion is known to have left"
        raise OptionError("something is in the way", got=got, expected="nothing", hint=_AWAY)


def check_file(path: Path, *marks: bytes) -> None:
    """Raise `OptionError` if `path` exists and is no file that a conversion wrote.

    marks: one of them is near the beginning of such a file, unless it is empty.
    """
    if not path.exists() and not path.is_symlink():
        return
    try:
        with open_regular(path) as stream:
            head = stream.read(4096)
    except OSError:
        head = b"?"  # a directory, a pipe, or unreadable: not ours
    if path.is_symlink() or (head.strip() and not any(mark in head for mark in marks)):
        got = f"{path}, which no conversion wrote"
        raise OptionError("something is in the way", got=got, expected="nothing", hint=_AWAY)


def _unreadable(out: Path, error: OSError) -> OptionError:
    got = error.strerror or str(error)
    return OptionError(f"{out} can't be looked into", got=got, hint=_ANOTHER)


def _is_ours(path: Path, known: bool, force: bool) -> bool:
    try:
        if not path.is_dir() or foreign_entry(path) is not None:
            return False
        if known or not entries_of(path) or (path / RECORD).is_file():
            return True
        return force and lacking(path) is None
    except OSError:
        return False


def _home() -> Path | None:
    try:
        return resolved(Path.home())
    except RuntimeError:  # a user without one, as in some containers
        return None
