"""Checks what a conversion would replace or remove: only what a conversion may have written.

Nothing else is removed, with ``--force`` either: a wrong ``--out`` must not cost a user's files.
"""

from __future__ import annotations

from pathlib import Path

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import open_regular
from qwen3_mlx.quantize.plan import COPIED, INDEX

RECORD = "conversion.json"
"""The result's file that records the source, the recipe and the measurements."""

_NAMES = frozenset(("config.json", RECORD, INDEX, "README.md", *COPIED))
_HARMLESS = frozenset((".gitattributes", ".DS_Store"))  # of the hub and of macOS
_ANOTHER = "name another --out"
_AWAY = "move it away, or name another --out: the conversion needs this name"


def check_place(out: Path) -> None:
    """Raise `OptionError` if `out` can't be a directory of its own, or is no directory now."""
    place, here, home = out.absolute().resolve(), Path.cwd().resolve(), _home()
    kept = {here: "the current directory", home: "the home directory"}
    what = kept.get(place)
    for inner, name in kept.items():
        if what is None and inner is not None and place in inner.parents:
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


def is_empty(out: Path) -> bool:
    """Whether the directory `out` is missing or empty. Raises `OptionError`."""
    try:
        return not out.exists() or not any(out.iterdir())
    except OSError as error:
        raise _unreadable(out, error) from None


def check_replaceable(out: Path) -> None:
    """Raise `OptionError` unless the directory `out` holds a checkpoint and nothing else."""
    try:
        foreign = _foreign(out)
    except OSError as error:
        raise _unreadable(out, error) from None
    if foreign is not None:
        raise OptionError(
            f"{out} is not replaced, not even by --force",
            got=foreign,
            expected="a checkpoint and nothing else",
            hint="move what you want to keep, remove the directory yourself, or " + _ANOTHER,
        )


def check_in_the_way(path: Path) -> None:
    """Raise `OptionError` if `path`, the place of an older result, is something else."""
    if path.is_symlink() or (path.exists() and (not path.is_dir() or not _is_ours(path))):
        got = f"{path}, which is no checkpoint"
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


def _is_ours(path: Path) -> bool:
    try:
        return _foreign(path) is None
    except OSError:
        return False


def _foreign(directory: Path) -> str | None:
    """What in `directory` is no part of a checkpoint, as text; None if it is one, or empty."""
    entries = sorted(directory.iterdir())
    for entry in entries:
        if not _belongs(entry):
            return f"{entry.name}{'/' if entry.is_dir() else ''} in it"
    names = {entry.name for entry in entries}
    if names and not names & {"config.json", RECORD}:
        return "neither config.json nor conversion.json in it"
    return None


def _belongs(entry: Path) -> bool:
    name = entry.name
    if not entry.is_file():
        return False
    if name.startswith(".") and name.endswith(".part"):  # left by a killed process
        name = name[1:].removesuffix(".part")
    is_weights = name.startswith("model") and name.endswith(".safetensors")
    return is_weights or name in _NAMES or name in _HARMLESS


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except RuntimeError:  # a user without one, as in some containers
        return None
