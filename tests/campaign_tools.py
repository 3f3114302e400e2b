"""Tool servers killed, stopped and hung at random moments, for tests.campaign.

Each time: the call gives one result, no process is left, and another server answers.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.tools.test_servers import HOSTILE, PROGRAM, config, marked, running

HOWS = ("well", "hang", "crash", "half", "flood", "noise", "children", "stubborn", "error")
WAITS_S = 20.0
"""A call, an end or an orphan that takes longer is a fault."""


def tools(work: Path) -> Callable[[random.Random], None]:
    """A server, a call, and something that befalls one of them; now and then the program dies."""
    from qwen3_mlx.tools import stdio

    stdio.GRACE_SECONDS = 0.3

    def run(rng: random.Random) -> None:
        mark = f"{work}-{os.getpid()}-{rng.randrange(10**12)}"
        try:
            if rng.random() < 0.1:
                _program_dies(mark, rng)
            else:
                _server_suffers(mark, rng)
            until = time.monotonic() + WAITS_S
            while running(mark) and time.monotonic() < until:
                time.sleep(0.02)
            assert not running(mark), "a process is left"
        finally:
            for left in running(mark):
                os.kill(left, signal.SIGKILL)

    return run


def _server_suffers(mark: str, rng: random.Random) -> None:
    from qwen3_mlx.tools.servers import McpServers
    from qwen3_mlx.tools.tool import Cancel, Result

    one = marked(config(rng.choice(HOWS)), mark)
    with McpServers([one], call_seconds=rng.choice((0.05, 0.3, 2.0))) as servers:
        assert not servers.failures, f"it didn't start: {servers.failures}"
        (tool,) = servers.tools()
        cancel, found = Cancel(), list[Result]()
        call = threading.Thread(target=lambda: found.append(tool.run({"a": 1}, cancel)))
        call.start()
        time.sleep(rng.random() * 0.05)
        match rng.choice(("kill", "stop", "end", "cancel", "close", "nothing")):
            case "cancel":
                cancel.ask()
            case "close":
                servers.close()
            case "nothing":
                pass
            case what:
                kinds = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}
                for process in running(mark)[:1]:
                    os.kill(process, kinds[what])
        call.join(WAITS_S)
        assert len(found) == 1, "the call is frozen"
    with McpServers([marked(config("well"), mark)], call_seconds=WAITS_S) as servers:
        (tool,) = servers.tools()
        assert not tool.run({"a": 1}, Cancel()).failed, "the next server doesn't answer"


def _program_dies(mark: str, rng: random.Random) -> None:
    command = [sys.executable, "-c", PROGRAM, str(HOSTILE), mark, "wait", rng.choice(HOWS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * 0.05)
        program.send_signal(rng.choice((signal.SIGKILL, signal.SIGTERM)))
        try:
            program.wait(WAITS_S)
        finally:
            program.kill()
