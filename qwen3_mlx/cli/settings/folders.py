"""The folders and files that the command line keeps between runs."""

from __future__ import annotations

import json
from pathlib import Path

from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.files import open_to_append, own_folder, read_small, write_atomically


def home() -> Path:
    """The directory of the state files: ``QWEN3_MLX_HOME``, else the platform's own place."""
    return own_folder("state")


def sessions() -> Path:
    """The directory of kept conversations: ``QWEN3_MLX_HOME``, else the platform's for data."""
    return own_folder("data") / "sessions"


def prompts() -> Path:
    """The directory of computed prompts: ``QWEN3_MLX_HOME``, else the platform's for caches."""
    return own_folder("cache") / "prompts"


def history_file() -> Path | None:
    """The file of typed lines, readable by its owner only; None where it can't be kept."""
    file = home() / "history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open_to_append(file):  # an old one may be somebody else's
            pass
    except OSError:
        return None
    return file


def last_model() -> str | None:
    """The model of the last chat, which may be gone by now; None if there was none."""
    try:
        name = json.loads(read_small(home() / "state.json").decode("utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and name else None


def lasting_name(name: str) -> str:
    """`name`, which must mean the same from another directory: a path is made absolute."""
    from qwen3_mlx.hub import resolve

    try:
        path = resolve.parse(name).path
        if path is None or name in dict(resolve.bundled()):
            return name
        return str(path.resolve())
    except (Qwen3Error, OSError):  # it will be said when the name is used
        return name


def remember_model(name: str) -> None:
    """Keep `name` for the next chat, if the file can be written."""
    name = lasting_name(name)
    try:
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(home() / "state.json", json.dumps({"model": name}).encode())
    except (OSError, ValueError):  # no room, no home; or a name that is no text
        pass
