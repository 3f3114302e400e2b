"""A program in a pseudo-terminal, and when it painted what."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

FRAME_END = b"\x1b[?2026l"
"""What ends a frame on a terminal that says it draws frames whole."""

_ASKS_FRAMES = b"\x1b[?2026$p"
_CODES = re.compile(rb"\x1b\[[0-9;?<>$]*[A-Za-z]|\x1b\][^\x07]*\x07")


class Terminal:
    """80 x 24 with a program in it; answers what Textual asks of a terminal."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env},
        )
        os.close(slave)
        self.frames: list[float] = []
        self.text = b""

    def read(self, seconds: float) -> bytes:
        """What comes within `seconds`, or at once if something is there."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:
            return b""
        now = time.perf_counter()
        if _ASKS_FRAMES in data:
            os.write(self.master, b"\x1b[?2026;2$y")
        self.frames += [now] * data.count(FRAME_END)
        self.text = self.text[-200_000:] + _CODES.sub(b"", data)
        return data

    def send(self, keys: str) -> None:
        """Type `keys`; what was painted before is forgotten."""
        self.text = b""
        os.write(self.master, keys.encode())

    def until(self, text: str, seconds: float = 60) -> float:
        """Wait until `text` is painted; returns the time."""
        end = time.perf_counter() + seconds
        while text.encode() not in self.text:
            if time.perf_counter() > end:
                raise TimeoutError(f"{text!r} was not painted: {self.text[-2000:]!r}")
            self.read(0.05)
        return time.perf_counter()

    def drain(self, seconds: float) -> None:
        """Read for `seconds`."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.read(0.02)

    def cpu_seconds(self) -> float:
        """Processor time the program has used so far (Linux)."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the program."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
