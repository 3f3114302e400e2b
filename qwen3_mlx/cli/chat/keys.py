"""The keys of both chats, as their help lists them."""

from __future__ import annotations

KEYS = {
    "Enter": "send",
    "Alt-Enter": "new line",
    "Ctrl-C": "answer now; stop; clear",
    "Esc": "as Ctrl-C, but no clear",
    "Ctrl-T": "think or not",
    "Ctrl-R": "fold or open thoughts",
    "Alt-Up, Down": "budget",
    "Ctrl-O": "copy marked or answer",
    "Up, Down": "history",
    "PageUp, Down": "scroll",
    "Tab": "complete a command",
    "Ctrl-D": "leave",
}
LINE_KEYS = ("Enter", "Alt-Enter", "Ctrl-C", "Up, Down", "Tab", "Ctrl-D")
"""The keys that also work in the line-based chat."""


def key_help(*, is_full_screen: bool) -> list[str]:
    """The help text of the keys, two per line."""
    cells = [f"{key:<14}{does}" for key, does in KEYS.items() if is_full_screen or key in LINE_KEYS]
    return [f"{left:<40}{right}" for left, right in zip(cells[::2], cells[1::2], strict=True)]
