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
_MOVES = re.compile(rb"\x1b\[\d+;\d+H")
_CODES = re.compile(rb"\x1b\[[0-9;?<>$]*[A-Za-z]|\x1b\][^\x07\x1b]*\x07")
_HALF = re.compile(rb"\x1b(\[[0-9;?<>$]*|\][^\x07\x1b]*)?\Z")
KEPT = 200_000
"""Bytes of what was painted last."""


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
        """What was painted since the last keys; what has a place of its own begins a line."""
        self._half = b""
        self._reads: list[tuple[float, int]] = []

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
        self._keep(now, self._half + data)
        return data

    def _keep(self, now: float, data: bytes) -> None:
        half = _HALF.search(data)
        self._half = half[0] if half else b""
        text = _CODES.sub(b"", _MOVES.sub(b"\n", data.removesuffix(self._half)))
        over = max(len(self.text) - KEPT, 0)
        self.text = self.text[over:] + text
        self._reads = [(then, end - over) for then, end in self._reads if end > over]
        self._reads.append((now, len(self.text)))

    def when(self, pattern: str) -> float:
        """The time at which what matches `pattern` had been painted, since the last keys."""
        found = re.search(pattern.encode(), self.text, re.MULTILINE)
        if found is None:
            raise LookupError(f"{pattern!r} was not painted: {self.text[-2000:]!r}")
        return next(time for time, end in self._reads if end >= found.end())

    def send(self, keys: str) -> None:
        """Type `keys`; what was painted before is forgotten."""
        self.text, self._reads = b"", []
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
