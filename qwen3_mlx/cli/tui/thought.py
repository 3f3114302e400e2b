"""The widget of a thought: a header with its length, and the foldable dim text."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.strip import Strip
from textual.widgets import Static

from qwen3_mlx.cli.tui.growing_text import Block, GrowingText, showable, wrapped
from qwen3_mlx.events import Stats, ThinkingCut

CUTS = {"budget": "cut by the budget", "user": "cut by you", "sure": "sure of the answer"}
LABEL_S = 0.2
"""Seconds between two updates of the header, which enlarge the repainted region."""

_DIM = Style(dim=True)


class ThoughtText(GrowingText):
    """The thought's text: plain, with a bar before each line."""

    DEFAULT_CSS = "ThoughtText { padding: 0 1; }"

    def __init__(self) -> None:
        super().__init__()
        self._growing = Rows()

    def draw(self, source: str, width: int) -> list[Strip]:
        """Wrapped lines with a bar, which marks a thought even without colours."""
        bar = Segment("│ ", _DIM)
        lines = wrapped(source.removesuffix("\n"), max(width - 2, 1), "dim")
        return [Strip([bar, *line]) for line in lines]

    def _draw(self, block: Block) -> list[Strip]:
        # Unlike in Markdown, empty lines count.
        return self.draw(block.source, self._width) if block.source else []

    def _draw_tail(self) -> list[Strip]:
        source = self._tail.source
        return self._growing(source, self._width, self.draw) if source else []

    def cut(self, tail: str) -> tuple[list[Block], str]:
        """Cut after the last complete line."""
        whole = tail.rfind("\n") + 1
        return ([Block(tail[:whole], gap=False)] if whole else []), tail[whole:]


class Rows:
    """Wraps a growing line into rows, redrawing only the last row.

    A thought may be one line of thousands of words; rows above the last one don't change. (Rich may
    put the blanks after a word longer than a row into a row of their own; here this shows only
    when the line has ended.)
    """

    def __init__(self) -> None:
        self._text, self._width, self._start = "", 0, 0
        self._above: list[Strip] = []

    def __call__(
        self, text: str, width: int, draw: Callable[[str, int], list[Strip]]
    ) -> list[Strip]:
        """The rows of `text`, of which earlier calls drew a prefix."""
        if width != self._width or not text.startswith(self._text):
            self._width, self._start, self._above = width, 0, []
        self._text = text
        rest = text[self._start :]
        rows = draw(rest, width)
        whole = [*self._above, *rows]
        last = rows[-1].text.removeprefix("│ ").rstrip()
        if last:  # the start of a blank row is unknown
            self._above = whole[:-1]
            self._start += len(rest.rstrip()) - len(last)
        return whole


class ThoughtHeader(Static):
    """The line above a thought: its length, and whether it is folded."""

    DEFAULT_CSS = "ThoughtHeader { height: 1; padding: 0 1; text-style: dim; }"


class Thought(Vertical):
    """A thought, growing or finished."""

    BLANK = True
    DEFAULT_CSS = "Thought { height: auto; margin: 0 0 1 0; }"

    def __init__(self, budget: int | None, *, folded: bool, automatic: bool = False) -> None:
        super().__init__()
        self.budget, self.tokens, self.seconds = budget, 0, 0.0
        self._automatic = automatic
        self.live, self.cut = True, ""
        self._began, self._labelled, self._stale = 0.0, 0.0, False
        self._thought_s = 0.0
        self._head, self.text = ThoughtHeader(markup=False), ThoughtText()
        self.text.display = not folded

    @classmethod
    def past(cls, text: str, *, folded: bool) -> Thought:
        """A thought of an earlier turn, without counts."""
        thought = cls(None, folded=folded)
        thought.live = False
        thought.text.append(showable(text.strip("\n")))
        return thought

    def compose(self) -> ComposeResult:
        """Yield the header and the text."""
        yield self._head
        yield self.text

    def on_mount(self) -> None:
        """Show the header."""
        self._label()

    @property
    def folded(self) -> bool:
        """Whether only the header is shown."""
        return not self.text.display

    def fold(self, folded: bool) -> None:
        """Hide the text, or show it."""
        if folded != self.folded:
            self.text.display = not folded
            self._label()

    def on_click(self, event: events.Click) -> None:
        """Fold or unfold on a click on the header."""
        if event.widget is self._head:
            self.fold(not self.folded)

    def append(self, text: str, tokens: int) -> None:
        """Add a piece of the thought and its number of tokens."""
        first = not self._began
        self._began = self._began or time.monotonic()
        self.tokens += tokens
        if self.budget:
            self.tokens = min(self.tokens, self.budget)  # the stop text isn't counted
        self.seconds = self._thought_s = time.monotonic() - self._began
        clean = showable(text)
        self.text.append(clean if self.text.source else clean.lstrip("\n"))
        if first or self.seconds - self._labelled >= LABEL_S:
            self._label()
        elif not self._stale:
            self._stale = True
            self.set_timer(LABEL_S, self._label_stale)

    def end(self, cut: ThinkingCut = "") -> None:
        """Mark the thought as finished; `cut` says what ended it early.

        Its time ends with its last piece: what ends it may come long after, when the user has
        answered a question about a tool.
        """
        if self.live:
            self.live, self.seconds = False, self._thought_s
            self.text.free_spare_rows()
        self.cut = CUTS.get(cut, self.cut)
        self._label()

    def finalize_counts(self, stats: Stats) -> None:
        """Show the turn's exact counts."""
        self.tokens = stats.thinking_tokens
        self.end(stats.thinking_cut)

    @property
    def gauge(self) -> str:
        """``412/1,024`` with a budget, ``412/auto`` with an automatic one, else ``412``."""
        limit = f"/{self.budget:,}" if self.budget else "/auto" if self._automatic else ""
        return f"{self.tokens:,}{limit}"

    def _label_stale(self) -> None:
        """Update a stale header even without new text, since the model may pause."""
        if self._stale and self.live:
            self.seconds = time.monotonic() - self._began
            self._label()

    def _label(self) -> None:
        self._labelled, self._stale = self.seconds, False
        mark = "▸" if self.folded else "▾"
        if self.live:
            text = f"{mark} thinking {self.gauge} · {self.seconds:.1f} s"
        elif self.tokens:
            text = f"{mark} thought {self.gauge} tokens · {self.seconds:.1f} s"
        else:
            text = f"{mark} thought"
        self._head.update(f"{text} · ✂ {self.cut}" if self.cut else text, layout=False)
