"""Changes config.toml atomically, and by one process at a time."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3_mlx.cli.settings import settings
from qwen3_mlx.errors import ConfigError
from qwen3_mlx.files import held, resolved, write_atomically

PATIENCE_S = 3.0
"""Seconds to wait for another process that changes the file; `config edit` may take hours."""


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Lock the file for this process. Raises `ConfigError`, also if another process holds it."""
    target = resolved(file)  # the file may be a symbolic link, for example to a dotfiles folder
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(held(target.with_name(f".{target.name}.lock"), PATIENCE_S))
        except BlockingIOError:
            hint = "a `qwen3-mlx config edit` may be open; finish it first"
            raise ConfigError(f"another command is changing {file}", hint=hint) from None
        except OSError as error:
            raise _refused(file, error) from None
        yield


def put(key: str, value: Any) -> None:
    """Set a key in the file; None removes it. Raises `ConfigError`."""
    file = settings.file()
    if value is None and key not in settings.read(file):
        return
    with exclusive(file):
        _put(file, key, value)


def _put(file: Path, key: str, value: Any) -> None:
    after = settings.read(file) | {key: value}
    if after.get("thinking") is True and after.get("budget") == 0:
        hint = "a budget of 0 switches thinking off; unset one of the two"
        raise ConfigError("thinking is true and budget 0", hint=hint)
    import tomlkit

    document = tomlkit.parse(settings.text(file))
    if value is not None:
        document[key] = value
    elif key in document:
        del document[key]
    save(file, tomlkit.dumps(document))


def save(file: Path, text: str) -> None:
    """Write the file with its old permissions, a new one with 0600. Raises `ConfigError`."""
    target = resolved(file)
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        write_atomically(target, text.encode())
        target.chmod(mode)
    except OSError as error:
        raise _refused(file, error) from None


def _refused(file: Path, error: OSError) -> ConfigError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free some space" if full else "check its owner, or set QWEN3_MLX_HOME to another place"
    return ConfigError(f"{file} can't be written", got=error.strerror or str(error), hint=hint)
