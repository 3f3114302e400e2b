"""A Textual driver that tells pastes from typing."""

from __future__ import annotations

import os
import select
import threading
from typing import Any

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from qwen3_mlx.cli.terminal.paste import PasteReader, with_escape

ESCAPE = "\x1b[27u"
"""An Esc key that Textual recognises at once; after a bare ESC it waits for more input."""


class PasteDriver(LinuxDriver):
    """Textual's driver with a `PasteReader` in front.

    A thread reads the terminal and writes to a pipe that Textual reads. Until the chat is drawn,
    every Enter counts as typed, since the user could only have typed ahead.
    """

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self._chat, self._reader = app, PasteReader(self.fileno)
        self._reading, self._is_listening = threading.Lock(), False
        self._wake = self._pipe = -1

    def start_application_mode(self) -> None:
        """Start reading; pastes are recognised after the first frame."""
        super().start_application_mode()
        self._chat.call_after_refresh(self.listen)

    def listen(self) -> None:
        """Recognise pastes from now on."""
        with self._reading:
            if self._pipe >= 0 and not self._is_listening:
                self._pass_on(self._reader.typed_ahead())
            self._is_listening = True

    def run_input_thread(self) -> None:
        """Read until Textual stops the input, at the end or to suspend."""
        terminal = self.fileno
        self._wake, stop = os.pipe()
        self.fileno, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        reader = threading.Thread(target=self._read, args=(terminal,), name="terminal-input")
        reader.start()
        try:
            super().run_input_thread()
        finally:
            os.close(stop)  # wakes the reader
            reader.join()
            pipes = (self.fileno, self._pipe, self._wake)
            self.fileno, self._pipe = terminal, -1
            for pipe in pipes:
                os.close(pipe)

    def _read(self, terminal: int) -> None:
        while not self._reader.closed:
            ready, _, _ = select.select([terminal, self._wake], [], [])
            if self._wake in ready:
                break
            with self._reading:
                if not select.select([terminal], [], [], 0)[0]:
                    continue  # `listen` has read it
                read = self._reader.read if self._is_listening else self._reader.typed_ahead
                self._pass_on(read())

    def _pass_on(self, text: str) -> None:
        is_esc = bool(text) and not text.strip("\x1b")  # no sequence: the reader has waited
        keys = text.replace("\x1b", ESCAPE) if is_esc else with_escape(text, ESCAPE)
        data = keys.encode()
        while data:
            stopped, _, _ = select.select([self._wake], [self._pipe], [])
            if stopped:
                break
            data = data[os.write(self._pipe, data) :]
