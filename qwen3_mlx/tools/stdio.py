"""MCP's stdio transport: the server is a child process; each message is a line of JSON.

https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO
from weakref import WeakSet

from qwen3_mlx.errors import ToolError
from qwen3_mlx.tools.transport import LARGEST_MESSAGE, Message, Receiver, parsed
from qwen3_mlx.tools.watch import WATCHER

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER")
"""The environment variables that a server inherits; its configuration may set more."""
DEPTH, DEEPEST = "QWEN3_MLX_TOOL_DEPTH", 3
"""The variable that counts nested programs, each started as a tool by another; its maximum."""
GRACE_SECONDS = 2.0
_LOG_BYTES = 2**20

_open: WeakSet[Stdio] = WeakSet()


class Stdio:
    """A child process in its own process group; the whole group is ended with the child."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        receiver: Receiver,
        log: Path | None = None,
        cwd: str | None = None,
    ) -> None:
        """Start `command`; the first MB of its stderr is written to `log`. Raises `ToolError`."""
        depth = int(os.environ.get(DEPTH, "0") or 0) + 1
        if depth > DEEPEST:
            raise ToolError(f"{command[0]} runs within itself", got=f"{depth} programs deep")
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [*command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=inherited | {DEPTH: str(depth)} | dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _not_started(error, command[0], cwd) from None
        WATCHER.add(self._process.pid)
        self._receiver, self._log = receiver, log
        self._writing = threading.Lock()
        self._last_words = b""
        self._closed = False
        self.ended = ""
        _open.add(self)
        self._noting, self._reading = (
            threading.Thread(target=work, name=f"{work.__name__} {command[0]}", daemon=True)
            for work in (self._note, self._read)
        )
        self._noting.start()  # first, because `_read` joins this thread
        self._reading.start()

    def send(self, message: Message) -> None:
        """Write one message as a line. Raises `ToolError`, with the reason why the server ended."""
        line = json.dumps(message, ensure_ascii=True).encode() + b"\n"
        try:
            with self._writing:
                self._stdin.write(line)
                self._stdin.flush()
        except (OSError, ValueError):
            if self._reading is not threading.current_thread():  # it sets `ended`
                self._reading.join(GRACE_SECONDS)
            raise ToolError("the server is gone", got=self.ended or self._why()) from None

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read(self) -> None:
        out = self._process.stdout
        assert out is not None
        with out, contextlib.suppress(OSError, ValueError):
            while line := out.readline(LARGEST_MESSAGE):
                if len(line) == LARGEST_MESSAGE and not line.endswith(b"\n"):
                    while (rest := out.readline(LARGEST_MESSAGE)) and not rest.endswith(b"\n"):
                        pass
                    self._receiver.lost(f"a message of more than {LARGEST_MESSAGE // 2**20} MB")
                    continue
                for message in parsed(line):
                    self._receiver.received(message)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self._end_group()
        self._noting.join(GRACE_SECONDS)  # so that `_last_words` is complete
        self.ended = self._why()
        self._receiver.lost(self.ended)

    def _note(self) -> None:
        """Write the beginning of the server's stderr to the log, and keep its last 400 bytes."""
        err, written = self._process.stderr, 0
        assert err is not None
        with err, contextlib.ExitStack() as stack:
            log = None
            if self._log is not None:
                with contextlib.suppress(OSError):
                    log = stack.enter_context(self._log.open("wb"))
            with contextlib.suppress(OSError, ValueError):
                while piece := os.read(err.fileno(), 65_536):
                    self._last_words = (self._last_words + piece)[-400:]
                    if log is not None and written < _LOG_BYTES:
                        written += len(piece)
                        with contextlib.suppress(OSError):
                            log.write(piece)
                            log.flush()

    def _why(self) -> str:
        code = self._process.poll()
        said = self._last_words.decode("utf-8", "replace").strip().splitlines()
        last = f": {said[-1][:200]}" if said else ""
        if code is None:
            return f"it closed its output{last}"
        return f"it ended with {'signal' if code < 0 else 'exit code'} {abs(code)}{last}"

    def close(self) -> None:
        """Close the server's stdin, then end its process group by SIGTERM, later by SIGKILL."""
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        with contextlib.suppress(OSError, ValueError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS / 4)
        self._end_group()
        for thread in (self._noting, self._reading):
            if thread is not threading.current_thread():
                thread.join(GRACE_SECONDS)

    def _end_group(self) -> None:
        group, until = self._process.pid, time.monotonic() + GRACE_SECONDS
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):  # no process is left in the group
                os.killpg(group, kind)
                while kind == signal.SIGTERM and time.monotonic() < until:
                    self._process.poll()
                    os.killpg(group, 0)
                    time.sleep(0.01)
        self._process.wait()
        WATCHER.drop(group)


def _not_started(error: OSError | ValueError, program: str, cwd: str | None) -> ToolError:
    """What `Popen`'s `error` means: the folder is missing, or the program, or is no program."""
    got = getattr(error, "strerror", None) or str(error)
    if not isinstance(error, OSError):
        return ToolError(f"{program} can't be started", got=got)
    if cwd is not None and error.filename == cwd:  # so says `Popen` where the folder is at fault
        hint = '"cwd" is the folder that the server runs in, written in full'
        return ToolError(f"{program} can't be started in {cwd}", got=got, hint=hint)
    if " " in program and isinstance(error, FileNotFoundError):
        hint = '"command" is the program alone; what stands behind it belongs into "args"'
    else:
        hint = "is it installed, and on the PATH?"
    return ToolError(f"{program} can't be started", got=got, hint=hint)


@atexit.register
def _close_all() -> None:
    for one in list(_open):
        one.close()
