"""A watcher process that ends the tool servers when this process is killed.

A process killed by SIGKILL can't clean up. But its pipe to the watcher then closes, on every
system, and the watcher ends the process groups that are still in its list. A server's child that
has started its own session is in no such group, and survives.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading

_WATCH = """
import os, signal, sys, time
for kind in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(kind, signal.SIG_IGN)
groups = set()
for line in sys.stdin.buffer:
    (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
for kind, seconds in ((signal.SIGTERM, 2), (signal.SIGKILL, 0)):
    alive = set()
    for group in groups:
        try:
            os.killpg(group, kind)
            alive.add(group)
        except OSError:
            pass
    until = time.monotonic() + seconds
    while alive and time.monotonic() < until:
        time.sleep(0.02)
        for group in list(alive):
            try:
                os.killpg(group, 0)
            except OSError:
                alive.discard(group)
    groups = alive
"""


class Watcher:
    """The watcher of this process, started for the first server."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def add(self, group: int) -> None:
        """End the process group `group` when this process ends."""
        self._tell(b"+%d\n" % group)

    def drop(self, group: int) -> None:
        """Forget a group that has ended, as the system may reuse its number."""
        self._tell(b"-%d\n" % group)

    def _tell(self, line: bytes) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # servers run without it too
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _WATCH],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()


WATCHER = Watcher()
