"""The folders and files that the command line keeps between runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def home() -> Path:
    """The directory of the state files: ``QWEN3_MLX_HOME``, else the platform's own place."""
    if own := os.environ.get("QWEN3_MLX_HOME"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/qwen3-mlx").expanduser()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "qwen3-mlx"


def sessions() -> Path:
    """The directory of kept conversations: ``QWEN3_MLX_HOME``, else the platform's for data."""
    if os.environ.get("QWEN3_MLX_HOME"):
        return home() / "sessions"
    import platformdirs  # a few milliseconds

    return platformdirs.user_data_path("qwen3-mlx", appauthor=False) / "sessions"


def prompts() -> Path:
    """The directory of computed prompts: ``QWEN3_MLX_HOME``, else the platform's for caches."""
    if os.environ.get("QWEN3_MLX_HOME"):
        return home() / "prompts"
    import platformdirs

    return platformdirs.user_cache_path("qwen3-mlx", appauthor=False) / "prompts"


def history_file() -> Path | None:
    """The file of typed lines, readable by its owner only; None where it can't be kept."""
    file = home() / "history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        with file.open("ab"):  # an old one may be somebody else's
            pass
    except (OSError, RuntimeError):
        return None
    return file


def last_model() -> str | None:
    """The model of the last chat; None if there was none, or its directory is gone."""
    try:
        name = json.loads((home() / "state.json").read_text("utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    if not isinstance(name, str) or (Path(name).is_absolute() and not Path(name).is_dir()):
        return None
    return name


def lasting_name(name: str) -> str:
    """`name`, which must mean the same from another directory."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def remember_model(name: str) -> None:
    """Keep `name` for the next chat, if the file can be written."""
    from qwen3_mlx.files import write_atomically

    name = lasting_name(name)
    try:
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(home() / "state.json", json.dumps({"model": name}).encode())
    except (OSError, RuntimeError):
        pass
