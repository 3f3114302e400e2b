"""How a group ends: with one message where it breaks, and never in the midst of a pass."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.group.plan import Plan

EXIT = 75
"""The exit code of a process whose group has broken (EX_TEMPFAIL)."""


def broken(plan: Plan, rank: int, why: str, said: str) -> None:
    """One message for the user, then the end of this process."""
    error = Qwen3Error(
        f"the group has lost {plan.name(rank)}: {why}",
        hint=f"last was: {said}. The conversation is kept: chat --resume goes on with it",
    )
    print(f"\nerror: {error}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(EXIT)


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
