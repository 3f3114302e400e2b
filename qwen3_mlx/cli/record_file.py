"""The file of ``bench --record``: checked before minutes of measuring, written at their end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import expanded, read_small, write_atomically


def check(path: Path) -> None:
    """Raise `OptionError` unless `path` is new in a directory, or an older record."""
    if not path.name or path.name == ".." or path.is_dir():
        _refuse(path, "a directory", "a file's name")
    if not path.parent.is_dir():
        _refuse(path, f"{path.parent}, which is no directory", "a file in a directory that exists")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        _refuse(path, f"{path.parent}, which can't be written to", "a folder of your own")
    if (path.exists() or path.is_symlink()) and not _is_record(path):
        _refuse(path, "a file that is no record", "a new file, or a record to replace")


def checked(path: Path | None) -> Path | None:
    """`path`, checked if it is given, its ``~`` expanded. Raises `OptionError`."""
    if path is not None:
        check(path := expanded(path))  # while the line is parsed, before `Command` expands
    return path


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the record. Raises `OptionError`, as `check` does."""
    from qwen3_mlx.bench.measure import environment

    check(path)
    text = json.dumps({"environment": environment(), "results": results}, indent=1)
    try:
        write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        _refuse(path, error.strerror or str(error), "a place to write to")


def _refuse(path: Path, got: str, expected: str) -> None:
    what, hint = f"--record {path}", "name another file: --record bench.json"
    raise OptionError(what, got=got, expected=expected, hint=hint)


def _is_record(path: Path) -> bool:
    try:
        found = json.loads(read_small(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"environment", "results"} <= set(found)
