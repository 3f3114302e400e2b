"""How a group ends: with one message where it breaks, and never in the midst of a pass."""

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
"""The status of a process whose group has broken: MLX may crash before it can exit by itself."""
NOTICED_S = 5.0
"""How long the end of a connection may take to be noticed, behind the pass that failed by it."""
EXIT = 75
"""The exit code of a process whose group has broken (EX_TEMPFAIL)."""


def broken(plan: Plan, rank: int, why: str, said: str) -> None:
    """End this process with one message for its user, which who watches it says.

    Here MLX may crash at any moment, between a note and a print too.
    """
    words, noted = lost(plan, rank, why, said), False
    with suppress(Qwen3Error):  # a full disk
        noted = note_status(f"{BROKEN}\n{words}")
    if not noted or launched_by() is None:
        say(words)
    os._exit(EXIT)


def lost(plan: Plan, rank: int, why: str, said: str) -> str:
    """The one message: which machine is lost, and what was last asked of all."""
    error = Qwen3Error(
        f"the group has lost {plan.name(rank)}: {why}",
        hint=f"last was: {said}. The conversation is kept: chat --resume goes on with it",
    )
    return f"error: {error}"


def say(words: str) -> None:
    """Write a message to the user, on a line of its own."""
    print(f"\n{words}", file=sys.stderr, flush=True)  # noqa: T201


def noted_end(file: Path) -> str | None:
    """What a process whose group has broken left to be said; None where it has not broken."""
    status = file.read_text() if file.exists() else ""
    return status.removeprefix(BROKEN).strip() if status.startswith(BROKEN) else None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: the others have begun an announced pass."""
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
