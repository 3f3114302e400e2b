"""Holds back Ctrl-C while a library would lose it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, also where the block has it ignored.

    Linux keeps an ignored signal that is blocked, unless a thread takes it that doesn't block it:
    those that begin within the block do, for good. Python's own handling isn't touched.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
