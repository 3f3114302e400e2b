"""Finds a kept conversation and reads it; a damaged file doesn't hide the older ones."""

from __future__ import annotations

from pathlib import Path

from qwen3_mlx.chat.journal import SavedChat, read
from qwen3_mlx.chat.journal_files import all_in, find
from qwen3_mlx.errors import SessionError


def latest(folder: Path) -> SavedChat:
    """The newest conversation in `folder` that can be read; says which newer files can't.

    Raises `SessionError` if there is none.
    """
    problems = []
    for path in all_in(folder):
        try:
            saved = read(path)
        except SessionError as error:
            problems.append(error.summary)
            continue
        if saved.turns:
            saved.passed_over = "\n".join(f"passed over: {problem}" for problem in problems)
            return saved
        if saved.damage or not saved.model:  # else the user has cleared it
            problems.append(f"{path} holds no message")
    if problems:
        hint = "start one: qwen3-mlx chat; qwen3-mlx sessions rm ID removes a damaged one"
        raise SessionError("no conversation that is kept can be read", got=problems[0], hint=hint)
    raise SessionError("no conversation is kept yet", hint="start one: qwen3-mlx chat")


def named(folder: Path, id: str | None) -> SavedChat:
    """The conversation `id` (a unique prefix will do), or `latest`. Raises `SessionError`."""
    return latest(folder) if id is None else read(find(folder, id))
