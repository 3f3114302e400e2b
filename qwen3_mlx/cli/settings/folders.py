"""The folders and files that persist between runs."""

from __future__ import annotations

import json
from pathlib import Path

from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.files import open_to_append, own_folder, read_small, resolved, write_atomically


def home() -> Path:
    """The directory of state files: ``QWEN3_MLX_HOME``, else the platform's state directory."""
    return own_folder("state")


def sessions() -> Path:
    """The directory of saved conversations, in ``QWEN3_MLX_HOME`` or the platform's data."""
    return own_folder("data") / "sessions"


def prompts() -> Path:
    """The directory of stored prompts, in ``QWEN3_MLX_HOME`` or the platform's cache."""
    return own_folder("cache") / "prompts"


def history_file() -> Path | None:
    """The input history, readable by its owner only; None if it can't be written."""
    file = home() / "history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open_to_append(file):  # an existing file may belong to another user
            pass
    except OSError:
        return None
    return file


def last_model() -> str | None:
    """The name of the last chat's model, which may be gone; None if there is none."""
    try:
        name = json.loads(read_small(home() / "state.json").decode("utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and name else None


def lasting_name(name: str) -> str:
    """`name` in a form valid from any directory: a path becomes absolute."""
    from qwen3_mlx.hub import resolve

    try:
        path = resolve.parse(name).path
        if path is None or name in dict(resolve.bundled()):
            return name
        return str(resolved(path))
    except (Qwen3Error, OSError):  # using the name reports the error
        return name


def remember_model(name: str) -> None:
    """Store `name` for the next chat; errors of writing are ignored."""
    name = lasting_name(name)
    try:
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(home() / "state.json", json.dumps({"model": name}).encode())
    except (OSError, ValueError):  # a full disk, no home, or an unencodable name
        pass
