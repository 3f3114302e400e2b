"""The conversation as a scrollable log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from qwen3_mlx.cli.tui.answer import Answer
from qwen3_mlx.cli.tui.paper import showable
from qwen3_mlx.cli.tui.thought import Thought

SHOWN_LINES = 12
"""Lines of a person's message that are shown; of a longer one, the first and a count."""


class Said(Static):
    """What the person said."""

    DEFAULT_CSS = """
    Said { width: 1fr; padding: 0 1; margin: 0 0 1 0; text-style: bold; }
    """

    def __init__(self, text: str) -> None:
        lines = showable(text).split("\n")
        more = len(lines) - SHOWN_LINES
        shown = lines if more <= 1 else [*lines[:SHOWN_LINES], f"… {more:,} more lines"]
        super().__init__(
            "\n".join(f"{'› ' if n == 0 else '  '}{x}" for n, x in enumerate(shown)), markup=False
        )


class Note(Static):
    """A remark of the program's, or an error in place."""

    DEFAULT_CSS = """
    Note { width: 1fr; padding: 0 1; margin: 0 0 1 0; text-style: dim; }
    Note.error { color: $error; text-style: none; }
    """

    def __init__(self, text: str, *, error: bool = False) -> None:
        super().__init__(showable(text), markup=False, classes="error" if error else "")


class Log(VerticalScroll):
    """Messages, thoughts, answers and notes, the newest at the bottom, which stays in view."""

    can_focus = False
    DEFAULT_CSS = "Log { height: 1fr; scrollbar-size-vertical: 1; padding: 0; }"

    def on_mount(self) -> None:
        """Follow the end until the person scrolls away from it."""
        self.anchor()

    def add(self, widget: Widget) -> None:
        """Put `widget` at the end."""
        self.mount(widget)

    def note(self, text: str, *, error: bool = False) -> None:
        """Add a remark."""
        self.add(Note(text, error=error))

    def follow(self) -> None:
        """Go to the end and stay there."""
        self.anchor()

    def show(self, messages: Sequence[dict[str, Any]], *, folded: bool) -> None:
        """Show a conversation from the start, in place of what is there."""
        self.remove_children()
        widgets: list[Widget] = []
        for message in messages:
            content = str(message.get("content") or "")
            if message["role"] == "user":
                widgets.append(Said(content))
            elif message["role"] == "assistant":
                if thought := message.get("reasoning_content"):
                    widgets.append(Thought.past(str(thought), folded=folded))
                answer = Answer()
                answer.append(content)
                widgets.append(answer)
        self.mount_all(widgets)
        self.follow()

    def last_answer(self) -> Answer | None:
        """The newest answer, if there is one."""
        answers = list(self.query(Answer))
        return answers[-1] if answers else None

    def fold_thoughts(self) -> bool:
        """Fold all thoughts if one is open, else open all; returns whether they are folded now."""
        thoughts = list(self.query(Thought))
        folded = any(not thought.folded for thought in thoughts)
        for thought in thoughts:
            thought.fold(folded)
        return folded
