"""The files of saved conversations: their names, and how to find and remove one."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from qwen3_mlx.errors import SessionError
from qwen3_mlx.files import locked


def new_path(folder: Path) -> Path:
    """The path of a new conversation: the local time plus four random hex digits."""
    return folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(2)}.jsonl"


def remove(path: Path) -> None:
    """Delete a conversation. Raises `SessionError`, also while a chat has it open."""
    try:
        file = locked(path)
    except BlockingIOError:
        raise SessionError(f"{path.stem} is open in another chat", hint="leave it first") from None
    except OSError:  # a file that can't be opened may still be deleted
        file = -1
    try:
        path.unlink()
    except OSError as error:
        got = error.strerror or str(error)
        hint = "remove it yourself" if path.is_dir() else None
        raise SessionError(f"{path} can't be removed", got=got, hint=hint) from None
    finally:
        if file >= 0:
            os.close(file)


def all_in(folder: Path) -> list[Path]:
    """The files of saved conversations, the most recently written first."""
    files = []
    for file in folder.glob("*.jsonl"):
        with contextlib.suppress(OSError):  # a dangling link, or a file just removed
            files.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(files, reverse=True)]


def find(folder: Path, id: str) -> Path:
    """The file of the conversation `id`; a unique prefix will do.

    Raises `SessionError` if none matches, or several do.
    """
    files = all_in(folder)
    hint = "qwen3-mlx sessions list shows what is there"
    matching = [f for f in files if f.stem == id] or [f for f in files if f.stem.startswith(id)]
    if len(matching) != 1:
        got = f"{id!r}, which {len(matching) or 'no'} conversations begin with"
        raise SessionError("which conversation?", got=got, hint=hint)
    return matching[0]
