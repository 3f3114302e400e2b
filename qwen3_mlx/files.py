"""Files: read only where they are regular ones, and written so that none is ever half written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import io
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from qwen3_mlx.errors import ConfigError, OptionError, shown

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that git-lfs would have replaced by the real one."""
LFS = {
    "got": "a pointer of git-lfs, a text of some lines",
    "hint": "the repository was cloned without git-lfs; in its directory: git lfs pull",
}
"""What to say of such a file: arguments of an error."""


NOWHERE = Path(os.devnull) / "no-home"
"""A place that nobody can make: nothing is found there, and writing fails with one line."""

Kind = Literal["config", "state", "data", "cache"]


def expanded(path: str | Path) -> Path:
    """`path` with ``~`` put in; as it stands where that is nobody's."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_path(what: str, path: object) -> None:
    """Raise `OptionError`, naming `what`, unless the system could have a file of that path."""
    try:
        if not isinstance(path, bytes) and b"\0" not in os.fsencode(path):  # type: ignore[arg-type]
            return
    except (TypeError, UnicodeEncodeError):
        pass
    raise OptionError(what, got=shown(path), expected="a str or a Path that the system could have")


def own_folder(kind: Kind) -> Path:
    """The folder of this program: ``QWEN3_MLX_HOME`` for all kinds, else the platform's own places.

    `NOWHERE` for a user without a home, as a container may have.
    """
    if own := os.environ.get("QWEN3_MLX_HOME"):
        return expanded(own)
    try:
        if kind == "state":
            mac = "~/Library/Application Support"
            state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
            return Path(mac if sys.platform == "darwin" else state).expanduser() / "qwen3-mlx"
        import platformdirs  # a few milliseconds

        find = getattr(platformdirs, f"user_{kind}_path")
        return Path(find("qwen3-mlx", appauthor=False))
    except RuntimeError:
        return NOWHERE


SMALL = 64 * 2**20
"""Bytes of a file that is read whole; the largest index of a Qwen3 has 4 MB."""


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open `path` for reading if it is a regular file, or a link to one.

    Never waits: a pipe, a device and a directory are an `OSError` that says what they are.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(handle, "rb")


def read_given(path: Path, limit: int = SMALL) -> bytes:
    """The bytes of what a user names: a pipe too, as the shell's ``<(command)`` gives one.

    Raises `OSError`, also for more than `limit` of them.
    """
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data


def open_to_append(path: Path) -> BinaryIO:
    """Open a regular file to write at its end; a new one is for its owner only.

    Never waits, as `open_regular`. Raises `OSError`.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(handle, "ab")


def read_small(path: str | Path, limit: int = SMALL) -> bytes:
    """The bytes of a regular file. Raises `OSError`, also for more than `limit` of them."""
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
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

    Raises `OSError`, for a full disk for example; then `path` is as it was before. What a killed
    process left half written goes an hour later.
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
    with contextlib.suppress(OSError):
        for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()


def locked(path: Path, *, create: bool = False) -> int:
    """Open `path` for reading and writing, as the only process that does.

    Raises `BlockingIOError` if another one has it, `OSError` for what is no regular file.
    """
    while True:
        new = os.O_CREAT if create else 0
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | new, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(file)
            if not stat.S_ISREG(held.st_mode):
                raise OSError(errno.EINVAL, "no regular file", str(path))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(held, os.stat(path)):  # noqa: PTH116 (a step that tests watch)
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the path leads elsewhere since it was opened


@contextlib.contextmanager
def held(lock: Path, patience: float = 0) -> Iterator[None]:
    """Have the empty file `lock`, which stands for what lies beside it, to this process alone.

    It is removed at the end; one that a killed process left is in nobody's way. Raises
    `BlockingIOError` if another process has it for longer than `patience` seconds, or `OSError`.
    """
    until = time.monotonic() + patience
    while True:
        try:
            file = locked(lock, create=True)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: nobody else's goes
        os.close(file)
