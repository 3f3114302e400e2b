"""Files: written so that none is ever half written, and a model's JSON read in one way."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import ConfigError


def read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    """The object in a JSON file of a model: config.json, tokenizer_config.json and the like.

    Raises `ConfigError` for what is no JSON object. Where there is no file: an empty object, or
    `ConfigError` with the hint `missing`.
    """
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        if missing is None:
            return {}
        got = f"directory {path.parent}"
        raise ConfigError(f"no {path.name}", got=got, hint=missing) from None
    except (OSError, ValueError, RecursionError) as error:
        hint = "the file is damaged or incomplete: fetch it again"
        raise ConfigError(f"{path} can't be read", got=error, expected="JSON", hint=hint) from None
    if not isinstance(values, dict):
        raise ConfigError(str(path), got=type(values).__name__, expected="a JSON object")
    return values


def read_config(directory: str | Path) -> dict[str, Any]:
    """config.json of a model directory, as it stands. Raises `ConfigError`."""
    missing = "a model directory has config.json beside its safetensors files"
    return read_json(Path(directory) / "config.json", missing)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk, then rename it into place.

    Raises `OSError`, for a full disk for example; then `path` is as it was before.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
