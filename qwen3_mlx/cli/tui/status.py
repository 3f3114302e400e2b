"""The status row: model, mode, context, speed, memory, and a turn's step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.widgets import Static

from qwen3_mlx.cli.terminal.numbers import short
from qwen3_mlx.cli.tui.growing_text import showable

if TYPE_CHECKING:
    from qwen3_mlx.cli.chat.conversation import Conversation

BAR = 10


def bar(done: int, total: int) -> str:
    """A progress bar: ``███░░░░░░░``."""
    full = min(BAR * done // max(total, 1), BAR)
    return "█" * full + "░" * (BAR - full)


def context_used(chat: Conversation, running: int) -> str:
    """``1.2k/4.1k (29 %)`` including the running turn's tokens; "" without a known context."""
    context = chat.context
    if context is None:
        return ""
    used = running + chat.used
    return f"{short(used)}/{short(context)} ({100 * used // context} %)"


class Status(Static):
    """One row, cut at the terminal's edge, so the most important part comes first."""

    DEFAULT_CSS = "Status { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }"

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._shown = ""

    def show(self, *parts: str) -> None:
        """Show the non-empty parts."""
        text = showable(" │ ".join(part for part in parts if part))
        if text != self._shown:
            self._shown = text
            self.update(text, layout=False)
