"""Defers Ctrl-C while a library would lose it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, even if the block ignores the signal.

    Linux keeps a blocked signal pending even while it is ignored, unless a thread doesn't block
    it. Threads started in the block inherit the mask for good. Python's handler is unchanged.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
