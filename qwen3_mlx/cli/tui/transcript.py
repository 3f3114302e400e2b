"""The scrollable transcript of the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.containers import Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from qwen3_mlx.cli.tui.answer import Answer
from qwen3_mlx.cli.tui.growing_text import showable
from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.cli.tui.tool_card import ToolCard

SHOWN_LINES = 12
"""Lines of a user message that are shown; more are only counted."""

PAGE = 12
"""Widgets per page; a page is laid out as a whole when one of its widgets grows."""


class UserMessage(Static):
    """A user message."""

    DEFAULT_CSS = """
    UserMessage { width: 1fr; padding: 0 1; margin: 0 0 1 0; text-style: bold; }
    """

    def __init__(self, text: str) -> None:
        lines = showable(text).split("\n")
        more = len(lines) - SHOWN_LINES
        shown = lines if more <= 1 else [*lines[:SHOWN_LINES], f"… {more:,} more lines"]
        super().__init__(
            "\n".join(f"{'› ' if n == 0 else '  '}{x}" for n, x in enumerate(shown)), markup=False
        )


class Notice(Static):
    """A note of the program, or an error."""

    DEFAULT_CSS = """
    Notice { width: 1fr; padding: 0 1; margin: 0 0 1 0; text-style: dim; }
    Notice.error { color: $error; text-style: none; }
    """

    def __init__(self, text: str, *, error: bool = False) -> None:
        super().__init__(showable(text), markup=False, classes="error" if error else "")


class Page(Vertical):
    """A group of widgets; a page far from the view is replaced by a blank of its height.

    Textual visits every visible widget for every new line, which is slow in a long conversation.
    """

    BLANK = True
    DEFAULT_CSS = "Page { height: auto; }"
    asleep = False
    _shown: Sequence[Widget] = ()

    def sleep(self, asleep: bool) -> None:
        """Hide the page's widgets but keep its height, or show them again."""
        if asleep == self.asleep or (asleep and not self.size.height):
            return
        self.asleep = asleep
        self.styles.height = self.size.height if asleep else "auto"
        if asleep:
            self._shown = [child for child in self.children if child.display]
        for child in self._shown:
            child.display = not asleep


class Transcript(VerticalScroll):
    """Messages, thoughts, answers and notes; the view follows the newest."""

    can_focus = False
    DEFAULT_CSS = "Transcript { height: 1fr; scrollbar-size-vertical: 1; padding: 0; }"
    _page: Page | None = None
    """The last page, to which `add` adds."""
    _width = 0
    """The width for which the pages' heights were computed."""

    def on_mount(self) -> None:
        """Follow the end until the user scrolls away."""
        self.anchor()

    def add(self, *widgets: Widget) -> None:
        """Append `widgets`."""
        if self._page is None or len(self._page.children) >= PAGE:
            self._page = Page()
            self.mount(self._page)
            self.call_after_refresh(self.rest)
        self._page.mount(*widgets)

    def rest(self) -> None:
        """Hide the pages more than a screen away from the view, and show the others."""
        reach = self.size.height
        top, bottom = self.scroll_y - reach, self.scroll_y + 2 * reach
        pages = list(self.query_children(Page))
        for page in pages[:-1]:
            region = page.virtual_region
            page.sleep(region.bottom <= top or region.y >= bottom)

    def wake(self) -> None:
        """Show all pages, because their heights may change."""
        for page in self.query_children(Page):
            page.sleep(False)
        self.call_after_refresh(self.rest)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Show the pages that come into view."""
        super().watch_scroll_y(old_value, new_value)
        self.rest()

    def on_resize(self) -> None:
        """Recompute the pages' heights if the width is new."""
        if self._width == self.size.width:
            self.call_after_refresh(self.rest)
            return
        self._width = self.size.width
        self.wake()

    def note(self, text: str, *, error: bool = False) -> None:
        """Append a notice."""
        self.add(Notice(text, error=error))

    def follow(self) -> None:
        """Scroll to the end and follow it."""
        self.anchor()

    def show(self, messages: Sequence[dict[str, Any]], *, folded: bool) -> None:
        """Replace the transcript by a conversation."""
        self.remove_children()
        widgets: list[Widget] = []
        calls: dict[str, Any] = {}
        for message in messages:
            content = str(message.get("content") or "")
            if message["role"] == "user":
                widgets.append(UserMessage(content))
            elif message["role"] == "assistant":
                if thought := message.get("reasoning_content"):
                    widgets.append(Thought.past(str(thought), folded=folded))
                for call in message.get("tool_calls") or []:
                    calls[str(call.get("id"))] = call.get("function") or {}
                if content or not message.get("tool_calls"):
                    answer = Answer()
                    answer.append(content)
                    widgets.append(answer)
            elif message["role"] == "tool":
                widgets.append(ToolCard.past(message, calls))
        self.mount_all(Page(*widgets[n : n + PAGE]) for n in range(0, len(widgets), PAGE))
        # A page composes its widgets later: what `add` mounted in it now would stand above them.
        self._page = None
        self.follow()
        self.call_after_refresh(self.rest)

    def last_answer(self) -> Answer | None:
        """The newest answer, if there is one."""
        answers = [answer for answer in self.query(Answer) if answer.source]
        return answers[-1] if answers else None

    def fold_thoughts(self) -> bool:
        """Fold all thoughts if one is open, else open all; returns whether they are folded now."""
        thoughts = [thought for thought in self.query(Thought) if thought.text.source]
        folded = any(not thought.folded for thought in thoughts)
        self.wake()
        for thought in thoughts:
            thought.fold(folded)
        return folded
