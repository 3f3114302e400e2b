"""The folders and files that the command line keeps between runs."""

from __future__ import annotations

import json
from pathlib import Path

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
    """The model of the last chat; None if there was none, or its directory is gone."""
    try:
        name = json.loads(read_small(home() / "state.json").decode("utf-8"))["model"]
        if not isinstance(name, str) or (Path(name).is_absolute() and not Path(name).is_dir()):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name


def lasting_name(name: str) -> str:
    """`name`, which must mean the same from another directory."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def remember_model(name: str) -> None:
    """Keep `name` for the next chat, if the file can be written."""
    name = lasting_name(name)
    try:
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(home() / "state.json", json.dumps({"model": name}).encode())
    except (OSError, ValueError):  # no room, no home; or a name that is no text
        pass
