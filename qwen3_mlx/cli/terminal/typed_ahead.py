"""Reads the text that the user typed before the chat could read it."""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from qwen3_mlx.cli.terminal.paste import with_ctrl_d


@contextmanager
def typed_ahead() -> Iterator[str]:
    """Yield the terminal's pending input, with a newline for every Enter.

    Inside the block the terminal no longer turns Enter into a newline, which the full-screen chat
    would read as Ctrl-J; afterwards its settings are restored.
    """
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):  # no terminal
        yield ""
        return
    raw = [*before[:6], [*before[6]]]
    raw[0] &= ~termios.ICRNL
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    try:
        termios.tcsetattr(terminal, termios.TCSANOW, raw)
        yield with_ctrl_d(_waiting(terminal)).replace("\r", "\n")
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def _waiting(terminal: int) -> str:
    data = b""
    while select.select([terminal], [], [], 0)[0]:
        piece = os.read(terminal, 1 << 16)
        if not piece:
            break
        data += piece
    return data.decode("utf-8", "replace")
