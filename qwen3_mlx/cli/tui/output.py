"""The way to the terminal."""

from __future__ import annotations

import contextlib

from textual._ansi_sequences import SYNC_END, SYNC_START
from textual.drivers.linux_driver import LinuxDriver


class Output(LinuxDriver):
    """Writes what is painted at once: a frame that the terminal draws whole, in one piece.

    Textual has a thread write it, in three pieces, each of which wakes that thread. It still
    exists and sleeps. A terminal that is slow to read delays the next frame, so that what it
    shows is never old; Textual's would first let ten of them wait.
    """

    _frame: str | None = None

    def write(self, data: str) -> None:
        """Write `data`, or keep it until its frame is complete."""
        if data == SYNC_START:
            self._frame = ""
        if self._frame is not None:
            self._frame += data
            if data != SYNC_END:
                return
            data, self._frame = self._frame, None
        assert self._file is not None
        with contextlib.suppress(OSError):  # the terminal is gone; `Watch` keeps what was said
            self._file.write(data)
            self._file.flush()
