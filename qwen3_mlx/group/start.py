"""Starts a group's processes, and ends all of them when one has ended.

MLX's launcher captures the terminal of every process, so a chat can't run under it. Here the first
process inherits the terminal; the others run without one, on this machine or over ssh.
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

from qwen3_mlx.group.ending import EXIT, NOTICED_S, lost, noted_end, say
from qwen3_mlx.group.plan import LAUNCHER, LOCAL, STATUS, Plan

JOIN_S = 30.0
"""Seconds in which MLX must connect the machines; meanwhile none of their threads can run."""
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
"""Signals by which MLX's ring may end a process whose neighbour is lost."""
WISHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals by which a user ends a process."""
HANG_S = 1.5
"""Seconds that the first process may continue after another has ended because it lost it."""
HANGS = signal.SIGSTOP
"""Represents a first process that was killed because it was stopped or hung."""
LOST_FIRST = (None, 0, EXIT)
"""Exit codes of a follower that didn't end before the first process."""
REMOTE = "qwen3-mlx"
PROGRAM = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()"]


def run(plan: Plan, arguments: Sequence[str], folder: Path) -> int:
    """Run the command `arguments` on the first machine with followers; returns its exit code."""
    others: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, plan.size):
            others.append(_follower(plan, rank, folder))
        environment = _environment(plan, 0, folder)
        with _terminal_restored():
            first = subprocess.Popen(_command(arguments), env=environment)
            code = _watched(first, environment, others)
        return _reported_code(plan, _noted_code(code, environment), others)
    finally:
        for process in others:
            _end(process)


def _environment(plan: Plan, rank: int, folder: Path) -> dict[str, str]:
    """The environment of the computing process that this one starts and watches."""
    return os.environ | plan.variables(rank, folder) | {LAUNCHER: str(os.getpid())}


def _reported_code(plan: Plan, code: int, others: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit code for the first process's; reports a process that was ended by a signal."""
    if code >= 0 or -code in WISHED:
        return code
    name, culprit = signal.Signals(-code).name, 0
    if -code in CRASHES:
        culprit = next(
            (i for i, ended in enumerate(_ends(others), 1) if ended not in LOST_FIRST), 0
        )
    why = "MLX ended with its connection" if culprit else f"it was ended by {name}"
    if -code == HANGS:
        why = "it is stopped, or hangs"
    say(lost(plan, culprit, why, "a pass"))
    return EXIT


def _ends(others: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """The exit codes of the others after some seconds; None for those that still run."""
    until = time.monotonic() + NOTICED_S
    while time.monotonic() < until and any(process.poll() is None for process in others):
        time.sleep(0.05)
    return [process.poll() for process in others]


def follow(plan: Plan, rank: int, launched: bool) -> int:
    """Run a following process and watch it; returns its exit code.

    launched: by `run`, which reports itself why the group ends.
    """
    with tempfile.TemporaryDirectory(prefix="qwen3-mlx-") as folder:
        environment = _environment(plan, rank, Path(folder))
        command = [*PROGRAM, "follow"]
        code = _watched(subprocess.Popen(command, env=environment), environment)
        return code if launched else _noted_code(code, environment)


def _command(arguments: Sequence[str]) -> list[str]:
    """The command line of qwen3-mlx with these arguments, or of a Python program."""
    if arguments and arguments[0].endswith(".py"):
        return [sys.executable, *arguments]
    return [*PROGRAM, *arguments]


def _follower(plan: Plan, rank: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a follower; it reads the plan from stdin, because the plan contains the secret."""
    follow = ["follow", "--group", "-", "--rank", str(rank)]
    if plan.hosts[rank] in LOCAL:
        command = [*PROGRAM, *follow]
    else:
        # A login shell, which sets the PATH.
        shell = f"$SHELL -lc {shlex.quote(shlex.join([REMOTE, *follow]))}"
        command = ["ssh", "-o", "BatchMode=yes", plan.hosts[rank], shell]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    stdin: IO[bytes] | None = process.stdin
    assert stdin is not None
    with suppress(BrokenPipeError):  # the process reports itself why it has ended
        stdin.write(plan.text().encode() + b"\n")
        stdin.flush()
    return process


def _watched(
    process: subprocess.Popen[bytes],
    environment: dict[str, str],
    others: Sequence[subprocess.Popen[bytes]] = (),
) -> int:
    """Wait for a process; kill it if joining MLX's group takes too long.

    Also kill it, with the code -`HANGS`, if it continues though others have ended because they lost
    it.
    """
    status = Path(environment[STATUS])
    since = alone = None
    while True:
        try:
            code = process.wait(timeout=0.5)
            return code if noted_end(status) is None else EXIT
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            continue  # the process gets the signal too, and handles it
        left = any(other.poll() == EXIT for other in others)
        alone = (alone or time.monotonic()) if left else None
        if alone is not None and time.monotonic() - alone > HANG_S:
            process.kill()
            process.wait()
            return -HANGS
        joining = status.exists() and status.read_text() == "joining"
        since = (since or time.monotonic()) if joining else None
        if since is not None and time.monotonic() - since > JOIN_S:
            process.kill()
            process.wait()
            what = f"error: MLX did not connect the machines within {JOIN_S:.0f} s"
            print(f"{what}\nhint: is another program on their ports?", file=sys.stderr)  # noqa: T201
            return 1


def _noted_code(code: int, environment: dict[str, str]) -> int:
    """`code`, or `EXIT` after printing the message that the process has noted."""
    message = noted_end(Path(environment[STATUS]))
    if message is None:
        return code
    say(message)
    return EXIT


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, unless it has ended by itself."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()  # ends the process behind ssh
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Restore the terminal's settings, even if a full-screen chat was killed."""
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
