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
from qwen3_mlx.group.plan import Plan, note_status

BROKEN = "broken"
"""The status of a process whose group has broken: MLX may crash before it can exit by itself."""
NOTICED_S = 5.0
"""How long the end of a connection may take to be noticed, behind the pass that failed by it."""
EXIT = 75
"""The exit code of a process whose group has broken (EX_TEMPFAIL)."""


def broken(plan: Plan, rank: int, why: str, said: str, quiet: bool = False) -> None:
    """One message for the user, unless another process says it; then the end of this process."""
    note_status(BROKEN)
    if not quiet:
        say_lost(plan, rank, why, said)
    os._exit(EXIT)


def say_lost(plan: Plan, rank: int, why: str, said: str) -> None:
    """The one message: which machine is lost, and what was last asked of all."""
    error = Qwen3Error(
        f"the group has lost {plan.name(rank)}: {why}",
        hint=f"last was: {said}. The conversation is kept: chat --resume goes on with it",
    )
    print(f"\nerror: {error}", file=sys.stderr, flush=True)  # noqa: T201


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
