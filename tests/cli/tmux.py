"""A real terminal to test in: tmux, with send-keys and capture-pane."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
"""How long a test waits for what must come; only a failing one ever does, on any machine."""
MAIN = "from qwen3_mlx.cli import main; main()"


class Tmux:
    """A terminal of 80 x 24 with a shell command in it, on a tmux server of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self._socket = home, str(home / "tmux")

    def __call__(self, *arguments: str) -> str:
        # a size that the terminal never has: the chat must go by the terminal's own
        size = {"COLUMNS": "90", "LINES": "33"}
        env = os.environ | size | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            ["tmux", "-S", self._socket, "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=env,
        )
        return done.stdout

    def start(
        self,
        script: str | None,
        *arguments: str,
        again: bool = False,
        size: tuple[int, int] = (80, 24),
        program: str = "tests.fake_cli",
    ) -> None:
        module = ["-m", program, script] if script else ["-c", MAIN]
        words = [sys.executable, *module, *arguments]
        # the echo stays on the screen when the program has ended
        line = f"{shlex.join(words)}; echo exit code $?; sleep 60"
        env = f"cd {shlex.quote(str(ROOT))}; export QWEN3_MLX_HOME={shlex.quote(str(self.home))}"
        where = (
            ["new-window"]
            if again
            else ["new-session", "-d", "-x", str(size[0]), "-y", str(size[1])]
        )
        self(*where, f"{env}; {line}")

    def keys(self, *keys: str) -> None:
        self("send-keys", *keys)

    def text(self, *, history: bool = False) -> str:
        """What the terminal shows, or with `history` all it has shown."""
        shown = self("capture-pane", "-p", "-J", *(["-S", "-"] if history else []))
        return "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"

    def until(self, text: str, count: int = 1) -> str:
        """Wait until `text` has been shown so many times; returns all that has been shown."""
        end = time.monotonic() + PATIENCE_S
        while (shown := self.text(history=True)).count(text) < count:
            assert time.monotonic() < end, f"{text!r} is not {count} times in:\n{shown}"
            time.sleep(0.05)
        return shown

    def shown(self, text: str) -> str:
        """Wait until `text` is on the screen; returns the screen."""
        end = time.monotonic() + PATIENCE_S
        while text not in (screen := self.text()):
            assert time.monotonic() < end, f"{text!r} is not in:\n{screen}"
            time.sleep(0.05)
        return screen

    def gone(self, text: str) -> str:
        """Wait until `text` is not on the screen any more; returns the screen."""
        end = time.monotonic() + PATIENCE_S
        while text in (screen := self.text()):
            assert time.monotonic() < end, f"{text!r} is still in:\n{screen}"
            time.sleep(0.05)
        return screen

    def record(self) -> None:
        """From now on keep all that is written to the terminal, for `painted`."""
        self("pipe-pane", f"cat >> {shlex.quote(str(self.home / 'painted'))}")

    @property
    def painted(self) -> str:
        """What was written since `record`: also what was on the screen for a moment only."""
        return (self.home / "painted").read_text(errors="replace")

    def prompt(self, count: int) -> None:
        """Wait for the prompt number `count`, and for it to listen."""
        self.until("[thinking] >", count)
        time.sleep(0.3)

    def kill(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], check=False)


def pid(tmux: Tmux) -> int:
    """The chat's process: the child of the pane's shell."""
    shell = tmux("display-message", "-p", "#{pane_pid}").strip()
    children = subprocess.run(["pgrep", "-P", shell], capture_output=True, text=True, check=True)
    return int(children.stdout.split()[0])
