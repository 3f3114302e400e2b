"""The conversation as a scrollable log."""

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
"""Lines of a person's message that are shown; of a longer one, the first and a count."""

PAGE = 12
"""Parts of the conversation that are laid out together, whenever one of them grows."""


class UserMessage(Static):
    """A message of the person."""

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
    """A remark of the program's, or an error in place."""

    DEFAULT_CSS = """
    Notice { width: 1fr; padding: 0 1; margin: 0 0 1 0; text-style: dim; }
    Notice.error { color: $error; text-style: none; }
    """

    def __init__(self, text: str, *, error: bool = False) -> None:
        super().__init__(showable(text), markup=False, classes="error" if error else "")


class Page(Vertical):
    """A part of the conversation; far from the screen it is a blank of its height.

    Textual visits every widget for every new line, so that a long conversation would be slow.
    """

    BLANK = True
    DEFAULT_CSS = "Page { height: auto; }"
    asleep = False
    _shown: Sequence[Widget] = ()

    def sleep(self, asleep: bool) -> None:
        """Sleep, or wake up."""
        if asleep == self.asleep or (asleep and not self.size.height):
            return
        self.asleep = asleep
        self.styles.height = self.size.height if asleep else "auto"
        if asleep:
            self._shown = [child for child in self.children if child.display]
        for child in self._shown:
            child.display = not asleep


class Transcript(VerticalScroll):
    """Messages, thoughts, answers and notes, the newest at the bottom, which stays in view."""

    can_focus = False
    DEFAULT_CSS = "Transcript { height: 1fr; scrollbar-size-vertical: 1; padding: 0; }"
    _page: Page | None = None
    """The last one, to which is added."""

    def on_mount(self) -> None:
        """Follow the end until the person scrolls away from it."""
        self.anchor()

    def add(self, *widgets: Widget) -> None:
        """Put `widgets` at the end."""
        if self._page is None or len(self._page.children) >= PAGE:
            self._page = Page()
            self.mount(self._page)
            self.call_after_refresh(self.rest)
        self._page.mount(*widgets)

    def rest(self) -> None:
        """Have the pages sleep that are more than a screen away, and the others be awake."""
        reach = self.size.height
        top, bottom = self.scroll_y - reach, self.scroll_y + 2 * reach
        pages = list(self.query_children(Page))
        for page in pages[:-1]:
            region = page.virtual_region
            page.sleep(region.bottom <= top or region.y >= bottom)

    def wake(self) -> None:
        """Wake all pages: their heights may change."""
        for page in self.query_children(Page):
            page.sleep(False)
        self.call_after_refresh(self.rest)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Wake the pages that come into view."""
        super().watch_scroll_y(old_value, new_value)
        self.rest()

    def on_resize(self) -> None:
        """All is as high as its new width makes it."""
        self.wake()

    def note(self, text: str, *, error: bool = False) -> None:
        """Add a remark."""
        self.add(Notice(text, error=error))

    def follow(self) -> None:
        """Go to the end and stay there."""
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
        pages = [Page(*widgets[n : n + PAGE]) for n in range(0, len(widgets), PAGE)]
        self.mount_all(pages)
        self._page = pages[-1] if pages else None
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
