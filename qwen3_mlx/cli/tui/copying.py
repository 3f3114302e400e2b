"""Ctrl-O: copies the selection, or the last answer and then its code blocks in turn."""

from __future__ import annotations

from typing import Any

from textual.app import App

from qwen3_mlx.cli.tui.answer import Answer


def copy(app: App[Any], answer: Answer | None, count: int) -> tuple[int, str]:
    """Copy the selection, or the next piece after `count` copies of `answer`.

    Returns the new count, and a message for the user.
    """
    if marked := app.screen.get_selected_text():
        app.copy_to_clipboard(marked)
        app.screen.clear_selection()
        return count, "copied what was marked"
    if answer is None:
        return count, ""
    pieces = [answer.source, *answer.code_blocks()]
    index = count % len(pieces)
    app.copy_to_clipboard(pieces[index])
    what = f"code block {index} of {len(pieces) - 1}" if index else "the answer"
    more = "; Ctrl-O again: its code" if not index and len(pieces) > 1 else ""
    return index + 1, f"copied {what}{more}"
