"""Reads regular files only, and writes files atomically; locks, and the program's own folders."""

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
"""The first bytes of a git-lfs pointer, the text that stands for a file not yet downloaded."""
LFS = {
    "got": "a pointer of git-lfs, a text of some lines",
    "hint": "the repository was cloned without git-lfs; in its directory: git lfs pull",
}
"""Keyword arguments of a `Qwen3Error` about a git-lfs pointer."""


NOWHERE = Path(os.devnull) / "no-home"
"""A path that can't exist: reading finds nothing, and writing fails with a plain `OSError`."""

Kind = Literal["config", "state", "data", "cache"]


def expanded(path: str | Path) -> Path:
    """`path` with ``~`` expanded; unchanged if the home directory is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def resolved(path: str | Path) -> Path:
    """`path` absolute and without links, as far as it exists; a loop of links stays as it is."""
    return Path(os.path.realpath(path))  # `Path.resolve` raises RuntimeError for a loop


def is_utf8(path: str | Path) -> bool:
    """Whether UTF-8 can spell `path`: a Linux system may have other bytes in a name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def path_text(what: str, path: object) -> str:
    """The text of `path`. Raises `OptionError`, naming `what`, unless this system can have it.

    A path may be of any class with ``__fspath__``, a text a member of an Enum: `str` of these is
    another text.
    """
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
        if isinstance(text, str) and b"\0" not in os.fsencode(text):
            return str.__str__(text)
    except (TypeError, UnicodeEncodeError):
        pass
    raise OptionError(what, got=shown(path), expected="a str or a Path that the system could have")


def own_folder(kind: Kind) -> Path:
    """This program's folder of a kind: ``QWEN3_MLX_HOME`` for all kinds, else the platform's.

    `NOWHERE` for a user without a home directory, as in some containers.
    """
    if own := os.environ.get("QWEN3_MLX_HOME", "").strip():
        return expanded(own)
    try:
        if kind == "state":
            mac = "~/Library/Application Support"
            state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
            return Path(mac if sys.platform == "darwin" else state).expanduser() / "qwen3-mlx"
        import platformdirs  # imported here because it takes a few milliseconds

        find = getattr(platformdirs, f"user_{kind}_path")
        return Path(find("qwen3-mlx", appauthor=False))
    except RuntimeError:
        return NOWHERE


SMALL = 64 * 2**20
"""The largest file that is read whole, in bytes; the largest index of a Qwen3 has 4 MB."""


def occupy_standard_descriptors() -> None:
    """Open the null device on each of the descriptors 0, 1 and 2 that the parent left closed.

    Else a file that is opened later gets one of them: what is printed would end up in it, and MLX
    reads no file with descriptor 0.
    """
    for standard in range(3):
        try:
            os.fstat(standard)
        except OSError:
            given = os.open(os.devnull, os.O_RDWR)  # the lowest free one
            if given == standard:
                os.set_inheritable(given, True)
            else:  # another thread was faster
                os.close(given)


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open `path` for reading if it is a regular file, or a link to one. Never blocks.

    Raises `IsADirectoryError` for a directory, `OSError` (EINVAL) for a pipe or a device.
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
    """The bytes of a file that the user names; a pipe works too, as the shell's ``<(command)``.

    Raises `OSError`, also for more than `limit` bytes.
    """
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data


def open_to_append(path: Path) -> BinaryIO:
    """Open a regular file for appending; a new file gets mode 0600.

    Never blocks, as `open_regular`. Raises `OSError`.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(handle, "ab")


def read_small(path: str | Path, limit: int = SMALL) -> bytes:
    """The bytes of a regular file. Raises `OSError`, also for more than `limit` bytes."""
    with open_regular(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
    return data


def is_lfs_pointer(path: Path) -> bool:
    """Whether `path` is a git-lfs pointer, which a clone without git-lfs leaves for a file."""
    try:
        with open_regular(path) as stream:
            return stream.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    """The object in a model's JSON file, such as config.json or tokenizer_config.json.

    Raises `ConfigError` if the file can't be read or holds no JSON object. A missing file gives
    an empty dict, or `ConfigError` with the hint `missing` if that is given.
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
        got = (error.strerror if isinstance(error, OSError) else None) or str(error)
        hint = "the file is damaged or incomplete: fetch it again"
        raise ConfigError(f"{path} can't be read", got=got, expected="JSON", hint=hint) from None
    if not isinstance(values, dict):
        raise ConfigError(str(path), got=type(values).__name__, expected="a JSON object")
    return values


def read_config(directory: str | Path) -> dict[str, Any]:
    """The raw content of config.json in a model directory. Raises `ConfigError`."""
    missing = "a model directory has config.json beside its safetensors files"
    return read_json(Path(directory) / "config.json", missing)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, fsync it, then rename it to `path`.

    Where `path` is a link, the file that it leads to is written. Raises `OSError`, for a full disk
    for example, and EINVAL for what is there and is no regular file: as root the renaming would
    put a file in the place of ``/dev/null``. `path` is then unchanged. Also deletes the temporary
    files that killed processes left for `path` more than an hour ago.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no regular file", str(path))
    path = resolved(path)
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
    """Open `path` for reading and writing, locked (flock) against other processes.

    Returns the file descriptor; closing it releases the lock. With `create`, a missing file is
    created with mode 0600. Raises `BlockingIOError` if another process holds the lock, `OSError`
    if `path` is not a regular file.
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
        os.close(file)  # the file was removed or replaced since it was opened: open the new one


@contextlib.contextmanager
def held(lock: Path, patience: float = 0) -> Iterator[None]:
    """Hold the lock on the empty file `lock`, which protects a file or folder beside it.

    The file is removed at the end; one left by a killed process blocks nobody. Raises
    `BlockingIOError` if another process holds the lock for more than `patience` seconds; `OSError`.
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
        # Removed while still locked: afterwards, it could be another process's lock.
        lock.unlink(missing_ok=True)
        os.close(file)
