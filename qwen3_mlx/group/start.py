"""Starting a group's processes, and ending all of them when one has ended.

MLX's own launcher takes the terminal of every process, so a chat could not run under it: the first
process here inherits the terminal, the others run on this machine or behind ssh without one.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from qwen3_mlx.group.ending import BROKEN, EXIT, NOTICED_S, say_lost
from qwen3_mlx.group.plan import LOCAL, STATUS, Plan

JOIN_S = 30.0
"""How long MLX may take to connect the machines: within it no thread of theirs can run."""
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
"""How MLX's ring may end a process whose neighbour is lost, before the process has heard it."""
REMOTE = "qwen3-mlx"
PROGRAM = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()"]


def run(plan: Plan, arguments: Sequence[str], folder: Path) -> int:
    """Run the command `arguments` on the first machine, the others following; its exit code."""
    others: list[subprocess.Popen[bytes]] = []
    with _terminal_restored():
        try:
            for rank in range(1, plan.size):
                others.append(_follower(plan, rank, folder))
            environment = os.environ | plan.variables(0, folder)
            code = _watched(subprocess.Popen(_command(arguments), env=environment), environment)
            lost = _ended_soon(others) if -code in CRASHES else None
            if lost is not None:
                say_lost(plan, lost + 1, "MLX ended with its connection", "a pass")
            return code if lost is None else EXIT
        finally:
            for process in others:
                _end(process)


def _ended_soon(others: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Which of the others has ended, within some seconds; None if all go on."""
    until = time.monotonic() + NOTICED_S
    while time.monotonic() < until:
        for index, process in enumerate(others):
            if process.poll() is not None:
                return index
        time.sleep(0.05)
    return None


def follow(plan: Plan, rank: int) -> int:
    """Run a process that follows, and watch it; its exit code. For who isn't started by `run`."""
    with tempfile.TemporaryDirectory(prefix="qwen3-mlx-") as folder:
        environment = os.environ | plan.variables(rank, Path(folder))
        command = [*PROGRAM, "follow"]
        return _watched(subprocess.Popen(command, env=environment), environment)


def _command(arguments: Sequence[str]) -> list[str]:
    """qwen3-mlx with these arguments, or a Python program."""
    if arguments and arguments[0].endswith(".py"):
        return [sys.executable, *arguments]
    return [*PROGRAM, *arguments]


def _follower(plan: Plan, rank: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start one that follows: with the plan on its standard input, as the secret is in it."""
    follow = ["follow", "--group", "-", "--rank", str(rank)]
    if plan.hosts[rank] in LOCAL:
        command = [*PROGRAM, *follow]
    else:
        shell = f"$SHELL -lc {shlex.quote(shlex.join([REMOTE, *follow]))}"  # it knows the PATH
        command = ["ssh", "-o", "BatchMode=yes", plan.hosts[rank], shell]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    stdin: IO[bytes] | None = process.stdin
    assert stdin is not None
    with suppress(BrokenPipeError):  # it says itself why it has ended
        stdin.write(plan.text().encode() + b"\n")
        stdin.flush()
    return process


def _watched(process: subprocess.Popen[bytes], environment: dict[str, str]) -> int:
    """Wait for a process, which is killed where joining MLX's group takes too long."""
    status = Path(environment[STATUS])
    since = None
    while True:
        try:
            code = process.wait(timeout=0.5)
            return EXIT if status.exists() and status.read_text() == BROKEN else code
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            continue  # it has got it too, and decides what that means
        joining = status.exists() and status.read_text() == "joining"
        since = (since or time.monotonic()) if joining else None
        if since is not None and time.monotonic() - since > JOIN_S:
            process.kill()
            process.wait()
            what = f"error: MLX did not connect the machines within {JOIN_S:.0f} s"
            print(f"{what}\nhint: is another program on their ports?", file=sys.stderr)  # noqa: T201
            return 1


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, which mostly has by itself, and what it started."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()  # what stands behind ssh ends with it
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Leave the terminal as it was, also where a full-screen chat had to end at once."""
    try:
        import termios

        file = sys.stdin.fileno()
        before = termios.tcgetattr(file)
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(file, termios.TCSADRAIN, before)
