"""Watches for a lost terminal and for SIGTERM."""

from __future__ import annotations

import asyncio
import select
import signal
import threading
from collections.abc import Callable

LOST = 129
"""The exit code of a chat whose terminal is gone: 128 + SIGHUP."""

LAST_PASS_S = 5.0
"""Seconds for which a turn may still compute then: a pass over many rows is not interrupted."""


class HangupWatcher:
    """Calls `on_hangup` when the terminal is gone, and `on_terminate` on SIGTERM.

    `on_hangup` runs in another thread: the interface may hang on the lost terminal, or be at the
    very step that `on_hangup` waits for.
    """

    def __init__(self, on_hangup: Callable[[], object], on_terminate: Callable[[], object]) -> None:
        self._on_hangup, self._on_terminate = on_hangup, on_terminate

    def start(self) -> None:
        """Start watching. Does nothing outside the main thread, which alone gets signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGHUP, lambda *_: self._aside(self._on_hangup))
        # By the event loop, which must be woken for the handler to run.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_terminate)
        self._aside(self._poll)

    def _aside(self, job: Callable[[], object]) -> None:
        threading.Thread(target=job, name="terminal", daemon=True).start()

    def _poll(self) -> None:
        """Wait until the terminal hangs up, which may happen without a signal."""
        poll = select.poll()
        poll.register(0, 0)
        if any(what & (select.POLLHUP | select.POLLERR) for _, what in poll.poll()):
            self._on_hangup()
