"""Tool servers that suffer while a chat uses them, for tests.campaign: turns, and whole programs.

Each time: the turn ends, every call has one result, the next turn goes, no process is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwen3_mlx.chat import journal
from qwen3_mlx.errors import SessionError
from tests.campaign_tools import HOWS, WAITS_S
from tests.campaign_tools import tools as tools_alone
from tests.tools.test_servers import config, marked, running

CALLS = 2
PROMPT = b"\x1b[?2004h"
"""What a line's prompt begins with."""
KILLS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "end": signal.SIGTERM}
TERMINAL_WAITS_S = 90.0
"""A program starts anew each time, on a machine that may be busy."""


def clean(mark: str) -> None:
    """Raise if a marked process is left in the end; end it all the same."""
    until = time.monotonic() + WAITS_S
    while running(mark) and time.monotonic() < until:
        time.sleep(0.02)
    left = running(mark)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert not left, "a process is left"


def strike(mark: str, what: str) -> None:
    """Do `what` to one process of a server, if there is one."""
    for process in running(f"MARK_OF_TEST={mark}")[:1]:  # not the chat, whose home has that name
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, KILLS[what])


def answered(messages: Sequence[dict[str, Any]]) -> None:
    """Raise if a call has no result, or two."""
    asked = [call["id"] for one in messages for call in one.get("tool_calls") or ()]
    given = [one["tool_call_id"] for one in messages if "tool_call_id" in one]
    assert given == asked, f"{len(asked)} calls have {len(given)} results"


def turns(work: Path) -> Callable[[random.Random], None]:
    """A turn of two parallel calls at two servers, one of which suffers; then one more turn."""
    import pytest

    from qwen3_mlx.tools import stdio
    from tests.cli import tools_given

    stdio.GRACE_SECONDS = 0.3
    model, patch = tools_given.model(), pytest.MonkeyPatch()

    def run(rng: random.Random) -> None:
        mark = f"{work}-{os.getpid()}-{rng.randrange(10**12)}"
        try:
            _turn(model, patch, mark, rng)
        finally:
            clean(mark)

    return run


def _turn(model: Any, patch: Any, mark: str, rng: random.Random) -> None:
    from qwen3_mlx.tools.consent import Consent
    from qwen3_mlx.tools.events import LoopDone, ToolRun
    from qwen3_mlx.tools.loop import ToolLoop
    from qwen3_mlx.tools.servers import McpServers
    from tests.cli.tools_given import GREEDY, call_text, say_in_turn

    hows = [rng.choice(HOWS), rng.choice(("well", "slow"))]
    configs = [marked(config(how, name), mark) for how, name in zip(hows, "ab", strict=True)]
    seconds = rng.choice((0.2, 1.0))
    with McpServers(configs, call_seconds=seconds) as servers:
        assert not servers.failures, f"it didn't start: {servers.failures}"
        names = [tool.name for tool in servers.tools()]
        say_in_turn(patch, model, ["".join(call_text(name) for name in names), "Done."])
        loop = ToolLoop(
            model.session(**GREEDY | {"max_tokens": 400}),
            servers.tools(),
            Consent(None, ["a.*", "b.*"]),
        )
        what = rng.choice((*KILLS, "stop", "interrupt", "interrupt twice", "close", "nothing"))
        moment = rng.random() * 0.3
        acts: dict[str, Callable[[], object]] = {
            **{kind: lambda kind=kind: strike(mark, kind) for kind in KILLS},
            "stop": lambda: servers.stop("a"),
            "interrupt": loop.interrupt,
            "interrupt twice": lambda: (loop.interrupt(), loop.interrupt()),
            "close": servers.close,
            "nothing": lambda: None,
        }
        timer = threading.Timer(moment, acts[what])
        events = []
        for event in loop.send("go"):
            events.append(event)
            if isinstance(event, ToolRun) and timer.ident is None:
                timer.start()
        timer.join(WAITS_S) if timer.ident is not None else None
        assert isinstance(events[-1], LoopDone)
        answered(loop.session.messages)
        say_in_turn(patch, model, [call_text(names[1]), "Done."])
        loop.offer(servers.tools())
        assert isinstance(list(loop.send("again"))[-1], LoopDone)
        answered(loop.session.messages)


class Terminal:
    """The chat with a model that says what a file says, in a terminal of its own."""

    def __init__(self, home: Path, mark: str, how: str, plain: bool) -> None:
        from tests.cli.tools_given import OPTIONS, call_text
        from tests.tools.test_servers import HOSTILE

        self.home, self.plain, self._seen, self._lines = home, plain, b"", 0
        home.mkdir()
        both = "".join(call_text("echo", a=n) for n in range(CALLS))
        (home / "said.json").write_text(json.dumps([both, "Done.", call_text("echo"), "Done."]))
        entry = {"command": sys.executable, "args": [str(HOSTILE), how]}
        entry["env"] = {"MARK_OF_TEST": mark}
        (home / "mcp.json").write_text(json.dumps({"mcpServers": {"h": entry}}))
        words = [sys.executable, "-m", "tests.cli.tools_chat", str(home / "said.json"), "chat"]
        words += ["demo", *OPTIONS, "--mcp", str(home / "mcp.json"), "--allow", "h.*"]
        self.launch(words + ["--plain"] * plain)

    def launch(self, words: list[str]) -> None:
        """Start the program in a terminal of 24 rows."""
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            termios.tcsetwinsize(0, (24, 80))
            os.environ |= {
                "QWEN3_MLX_HOME": str(self.home),
                "TERM": "xterm-256color",
                "COLUMNS": "80",
            }
            os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"  # nobody answers here
            os.execv(words[0], words)
        os.set_blocking(self._terminal, False)

    def read(self) -> bytes:
        """All that it has shown."""
        with contextlib.suppress(OSError):
            while piece := os.read(self._terminal, 65_536):
                self._seen += piece
        return self._seen

    def say(self, text: str) -> None:
        """Send a line as soon as the chat reads one: what comes earlier isn't sent by its Enter."""
        self._lines += 1
        self.until(lambda: not self.plain or self.read().count(PROMPT) >= self._lines, "a prompt")
        self.type(f"{text}\r")

    def type(self, keys: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._terminal, keys.encode())

    def until(self, ready: Callable[[], bool], what: str, key: str = "") -> None:
        """Wait until `ready`, pressing `key` twice a second."""
        until, press = time.monotonic() + TERMINAL_WAITS_S, time.monotonic() + 0.5
        while not ready():
            shown = self.read()[-300:]
            assert time.monotonic() < until, f"{what} didn't come: {shown!r}"
            if key and time.monotonic() > press:
                self.type(key)
                press = time.monotonic() + 0.5
            time.sleep(0.02)

    def messages(self) -> list[dict[str, Any]]:
        """What is kept of the conversation."""
        for file in (self.home / "sessions").glob("*.jsonl"):
            with contextlib.suppress(SessionError):
                return journal.read(file).messages
        return []

    def turns(self) -> int:
        """Turns that are over: each is kept at its end."""
        return sum(one["role"] == "user" for one in self.messages())

    def gone(self) -> bool:
        """Whether the program has ended."""
        self.read()
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return True

    def hang_up(self) -> None:
        """Close the terminal."""
        with contextlib.suppress(OSError):
            os.close(self._terminal)


def terminals(work: Path) -> Callable[[random.Random], None]:
    """A chat in a terminal: its server, or the chat itself, suffers in the middle of a turn."""

    def run(rng: random.Random) -> None:
        mark = f"{work}-{os.getpid()}-{rng.randrange(10**12)}"
        chat = Terminal(Path(mark), mark, rng.choice(HOWS), rng.random() < 0.5)
        try:
            _talk(chat, mark, rng)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chat.pid, signal.SIGKILL)
            chat.until(chat.gone, "its end")
            chat.hang_up()
            clean(mark)

    return run


def _talk(chat: Terminal, mark: str, rng: random.Random) -> None:
    chat.until(lambda: b"1 tool of 1 server" in chat.read(), "the server's start")
    chat.say("go")
    chat.until(lambda: b"h.echo" in chat.read(), "the first call")
    time.sleep(rng.random() * 0.2)
    what = rng.choice((*KILLS, "press", "nothing", "hang up", "die"))
    if what in KILLS:
        strike(mark, what)
    if what == "hang up":
        chat.hang_up()
    if what == "die":
        os.kill(chat.pid, rng.choice((signal.SIGKILL, signal.SIGTERM)))
    if what in ("hang up", "die"):
        chat.until(chat.gone, "its end")
        return
    # a call that hangs is ended as a person ends it; 0.5 s pass before the first press
    press = "\x03" if chat.plain else "\x1b"
    if what == "press":
        chat.type(press)
    chat.until(lambda: chat.turns() == 1, "the turn's end", press)
    chat.say("/mcp restart h")
    chat.until(lambda: b"h runs" in chat.read(), "the server's second start")
    calls = chat.read().count(b"h.echo")
    chat.say("again")
    chat.until(lambda: chat.read().count(b"h.echo") > calls, "the second turn's call")
    chat.until(lambda: chat.turns() == 2, "the second turn's end", press)
    answered(chat.messages())
    chat.say("/quit")
    chat.until(chat.gone, "the chat's end")


TOOLS: dict[str, Callable[[Path], Callable[[random.Random], None]]] = {
    "tools": tools_alone,
    "tools-turns": turns,
    "tools-terminals": terminals,
}
