"""Files that a command writes at the end of long work."""

from __future__ import annotations

import os
from pathlib import Path

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import write_atomically


def check(option: str, path: Path) -> None:
    """Raise `OptionError`, before the work, if `path` can't be written."""
    folder, hint = path.parent, "name a file in a folder of your own"
    if path.is_dir():
        raise OptionError(option, got=f"{path}, a folder", expected="a file", hint=hint)
    if not folder.is_dir():
        raise OptionError(option, got=path, expected=f"a folder {folder}", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        expected = f"a folder that can be written to, not {folder}"
        raise OptionError(option, got=path, expected=expected, hint=hint)


def write(option: str, path: Path, text: str) -> None:
    """Write `text`. Raises `OptionError` that names `path`, for a full disk for example."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        got = f"{path}: {error.strerror or error}"
        hint = "what was measured is in the table above"
        raise OptionError(f"{option} can't be written", got=got, hint=hint) from None
