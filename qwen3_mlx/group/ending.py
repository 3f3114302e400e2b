"""Ends a group: with one message if it breaks, and never in the middle of a pass."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.group.plan import Plan, launched_by, note_status

BROKEN = "broken"
"""The noted status of a process whose group has broken; MLX may crash before it can exit."""
NOTICED_S = 5.0
"""Seconds after a failed pass in which the control line may notice the lost connection."""
EXIT = 75
"""The exit code of a process whose group has broken (EX_TEMPFAIL)."""


def broken(plan: Plan, rank: int, why: str, last_action: str) -> None:
    """End this process, leaving the message for the user to the process that watches it.

    MLX may crash here at any moment, even between the note and a print.
    """
    message, noted = lost(plan, rank, why, last_action), False
    with suppress(Qwen3Error):  # a full disk
        noted = note_status(f"{BROKEN}\n{message}")
    if not noted or launched_by() is None:
        say(message)
    os._exit(EXIT)


def lost(plan: Plan, rank: int, why: str, last_action: str) -> str:
    """The message to the user: the lost machine, and the last action of the group."""
    error = Qwen3Error(
        f"the group has lost {plan.name(rank)}: {why}",
        hint=f"last was: {last_action}. The conversation is kept: chat --resume goes on with it",
    )
    return f"error: {error}"


def say(message: str) -> None:
    """Write a message to the user, on a line of its own."""
    print(f"\n{message}", file=sys.stderr, flush=True)  # noqa: T201


def noted_end(file: Path) -> str | None:
    """The message in the status file of a process whose group has broken; else None."""
    status = file.read_text() if file.exists() else ""
    return status.removeprefix(BROKEN).strip() if status.startswith(BROKEN) else None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, since the others have begun the announced pass."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed and callable(before):
            before(*pressed[0])
