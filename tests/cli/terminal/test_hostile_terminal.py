"""Every command under a pseudo-terminal, with hostile names, titles, texts and errors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.cli.terminal.hostile_commands import HOSTILE, MARK, NAME, commands
from tests.cli.terminal.hostile_commands import prepare as prepare_home
from tests.cli.tmux import ROOT
from tests.test_house import PACKAGE

PAYLOADS = ("\x1b]0;PWNED", "\x1b[66;6H", "\x9b", "\x1bP66", "\u202e", "\u2066", "\x9d", "\x7f")
PATIENCE_S = 150
ALTERNATE_SCREEN = "\x1b[?1049h"


def on_a_terminal(
    command: list[str], keys: list[tuple[str, bytes | signal.Signals]], **env: str
) -> str:
    """What the program writes; each of `keys` is typed, or sent, when its mark has come."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe(command[0], command, os.environ | {"TERM": "xterm-256color"} | env)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown, seen, deadline = b"", 0, time.monotonic() + PATIENCE_S
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 1)[0]:
                shown += os.read(terminal, 65_536)
            if keys and (found := shown.find(keys[0][0].encode(), seen)) >= 0:
                seen = found + 1
                key = keys.pop(0)[1]
                if isinstance(key, signal.Signals):
                    os.kill(pid, key)
                else:
                    os.write(terminal, key)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert not keys and time.monotonic() < deadline, shown[-2000:]
    return shown.decode("utf-8", "replace")


def test_the_payloads_are_in_what_is_given() -> None:
    assert all(payload in HOSTILE for payload in PAYLOADS)


@pytest.mark.slow
def test_no_command_lets_a_control_sequence_through(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.cli.terminal.hostile_commands", str(tmp_path / "home")]
    typed = [("not thinking] >", b"hi\r"), ("tok/s", b"/stats\r"), ("this chat", b"/quit\r")]
    shown = on_a_terminal(program, typed)
    parts = shown.split(MARK)
    assert parts[-1].strip() == "end", shown[-3000:]
    codes = [int(part.split()[1]) for part in parts if part.startswith("code")]
    runs = commands(tmp_path / "home")
    assert len(codes) == len(runs)
    outputs = [part for part in parts if part[:1].isdigit()]
    for arguments, output, code in zip(runs, outputs, codes, strict=True):
        leaked = [payload for payload in PAYLOADS if payload in output]
        assert not leaked, (arguments, output)
        assert code in (0, 1, 2), (arguments, output)
        assert "Traceback" not in output or "--debug" in arguments, (arguments, output)
    assert "PWNED" in shown, "what is left of it is shown"


@pytest.mark.slow
def test_the_full_screen_lets_none_through(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare_home(home, PACKAGE / "demo")
    program = "import sys; from qwen3_mlx.cli import main; sys.argv[0] = 'qwen3-mlx'; main()"
    model = str(home / "models" / NAME)
    command = [sys.executable, "-c", program, "chat", model, "--resume", "2026-01-01-000000-0000"]
    shown = on_a_terminal(
        command,
        # what was refused comes back into the input, so that nothing typed then is sure to be sent
        [("PWNED", b"hi\r"), ("tok/s", b"/nonsense\r"), ("unknown command", signal.SIGTERM)],
        QWEN3_MLX_HOME=str(home),
    )
    assert "PWNED" in shown and ALTERNATE_SCREEN in shown
    # Textual sets the window's modes; it never moves to row 66, and writes no title of ours.
    assert not [payload for payload in PAYLOADS if payload in shown], shown[-2000:]
    assert not re.search("\x1b\\][0-2];", shown)
