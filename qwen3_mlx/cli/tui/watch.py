"""What to do when the terminal goes away, or the program is told to end."""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3_mlx.cli.tui.app import Chat

LOST = 129
"""The exit code of a chat whose terminal is gone: 128 and SIGHUP."""

LOOK_S = 2.0
"""Seconds between two looks at whether the terminal is still there."""


class Watch:
    """Ends the program when its terminal is gone, or when it is told to end."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    def start(self) -> None:
        """Begin to watch. Signals are heard in the main thread only."""
        if self._app.is_headless or threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGTERM, self._terminate)
        self._app.set_interval(LOOK_S, self._look)

    def _look(self) -> None:
        """A terminal may go without a signal; reading it would then spin."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        if any(
            what & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, what in poll.poll(0)
        ):
            self._hang_up()

    def _terminate(self, *_signal: Any) -> None:
        self._app.exit(128 + signal.SIGTERM)

    def _hang_up(self, *_signal: Any) -> None:
        """There is nobody to show anything to: keep what was said, and go."""
        view = self._app.view
        if view is not None:
            view.running.stop()
            view.running.over.wait(1.0)
        os._exit(LOST)
