"""Files: read only where they are regular ones, and written so that none is ever half written."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from qwen3_mlx.errors import ConfigError

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that git-lfs would have replaced by the real one."""
LFS = {
    "got": "a pointer of git-lfs, a text of some lines",
    "hint": "the repository was cloned without git-lfs; in its directory: git lfs pull",
}
"""What to say of such a file: arguments of an error."""


SMALL = 64 * 2**20
"""Bytes of a file that is read whole; the largest index of a Qwen3 has 4 MB."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open `path` for reading if it is a regular file, or a link to one.

    Never waits: a pipe, a device and a directory are an `OSError` that says what they are.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path} is no regular file")
    return os.fdopen(handle, "rb")


def read_small(path: str | Path, limit: int = SMALL) -> bytes:
    """The bytes of a regular file. Raises `OSError`, also for more than `limit` of them."""
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path} has more than {limit} bytes")
    return data


def is_lfs_pointer(path: Path) -> bool:
    """Whether a clone without git-lfs left a pointer in the place of the file."""
    try:
        with open_regular(path) as stream:
            return stream.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    """The object in a JSON file of a model: config.json, tokenizer_config.json and the like.

    Raises `ConfigError` for what is no JSON object. Where there is no file: an empty object, or
    `ConfigError` with the hint `missing`.
    """
    try:
        values = json.loads(read_small(path).decode("utf-8-sig"))
    except FileNotFoundError:
        if missing is None:
            return {}
        got = f"directory {path.parent}"
        raise ConfigError(f"no {path.name}", got=got, hint=missing) from None
    except (OSError, ValueError, RecursionError) as error:
        if is_lfs_pointer(path):
            raise ConfigError(f"{path} was not downloaded", **LFS) from None
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
