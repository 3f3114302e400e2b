"""Whether the terminal can show a full-screen chat."""

from __future__ import annotations

import os
import sys

from qwen3_mlx.cli.terminal.screen import Screen, is_terminal

SMALLEST = (40, 10)
"""Columns and rows below which the chat goes by lines."""


def capable(screen: Screen) -> bool:
    """Whether a full-screen chat can be shown here."""
    terminals = screen.out_is_terminal and screen.err_is_terminal and is_terminal(sys.stdin)
    if not terminals or screen.is_dumb or not os.environ.get("TERM") or not screen.is_utf8:
        return False
    try:
        size = os.get_terminal_size(screen.out.fileno())
    except (OSError, ValueError):
        return False
    return size.columns >= SMALLEST[0] and size.lines >= SMALLEST[1]
