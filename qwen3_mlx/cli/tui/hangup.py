"""What to do when the terminal goes away, or the program is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3_mlx.cli.tui.app import Chat

LOST = 129
"""The exit code of a chat whose terminal is gone: 128 and SIGHUP."""


class HangupWatcher:
    """Ends the program when its terminal is gone, or when it is told to end."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    def start(self) -> None:
        """Begin to watch. Signals are heard in the main thread only."""
        if self._app.is_headless or threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGHUP, self._hang_up)
        # through the loop, which sleeps while nothing happens and must be woken
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminate)
        threading.Thread(target=self._look, name="terminal", daemon=True).start()

    def _look(self) -> None:
        """A terminal may go without a signal; reading it would then spin, and writing it block.

        That blocks the interface, so this is a thread of its own. It sleeps until something is.
        """
        poll = select.poll()
        poll.register(0, 0)
        if any(what & (select.POLLHUP | select.POLLERR) for _, what in poll.poll()):
            self._hang_up()

    def _terminate(self) -> None:
        self._app.exit(128 + signal.SIGTERM)

    def _hang_up(self, *_signal: Any) -> None:
        """There is nobody to show anything to: keep what was said, and go."""
        view = self._app.view
        if view is not None:
            view.running.stop()
            view.running.over.wait(1.0)
        if self._app.chat is not None:
            with contextlib.suppress(Exception):
                self._app.chat.keep()
        os._exit(LOST)
