"""An answer as Markdown while it streams.

Finished blocks (paragraph, list, table, code) are printed once and never touched again; only the
last one is drawn anew as it grows, its end if it is taller than the terminal. So a long answer
neither flickers nor is cut.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import ListElement, ListItem, Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.table import Table
from rich.theme import Theme

from qwen3_mlx.cli.terminal.grammar import parse
from qwen3_mlx.cli.terminal.screen import Screen, printable

if TYPE_CHECKING:
    from markdown_it.token import Token

# rich's own has a black background, a hole in a light terminal
THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})

FRAME_S = 0.08
"""Seconds between two drawings of the growing block."""


def split_finished(text: str) -> tuple[list[str], str]:
    """The top-level blocks of `text` that can't change any more, and the rest.

    The last block may still grow, and a line that isn't whole yet may turn out to belong to the
    block before it, so only whole lines are judged and the last block is never finished.
    """
    whole = text[: text.rfind("\n") + 1]
    lines = [f"{line}\n" for line in whole.split("\n")[:-1]]
    starts = [
        token.map[0]
        for token in parse(whole)
        if token.map is not None and token.level == 0 and token.nesting >= 0
    ]
    if len(starts) < 2:
        return [], text
    bounds = [0, *starts[1:]]
    blocks = ["".join(lines[a:b]) for a, b in pairwise(bounds)]
    return blocks, "".join(lines[starts[-1] :]) + text[len(whole) :]


class MarkdownAnswer:
    """The answer's text, drawn as Markdown on a terminal's stdout."""

    def __init__(self, screen: Screen) -> None:
        self._console = Console(file=screen.out, highlight=False, theme=THEME)
        self._live: Live | None = None
        self._tail, self._drawn_at, self._printed = "", 0.0, False

    def write(self, text: str) -> None:
        """A piece came: print the blocks it finishes, redraw the last one now and then."""
        self._tail += printable(text)
        if not self._tail.strip():
            return
        if "\n" in text:
            blocks, self._tail = split_finished(self._tail)
            for block in blocks:
                self._print(block)
        now = time.monotonic()
        if now - self._drawn_at >= FRAME_S:
            self._draw()
            self._drawn_at = now

    def close(self) -> None:
        """Print the last block: the answer is over."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._tail.strip():
            self._print(self._tail)
        self._tail, self._printed = "", False

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(_Block(self._tail, self._printed, growing=True), refresh=True)

    def _print(self, block: str) -> None:
        if self._live is not None:
            # empty first, or the live block would be drawn once more below the finished one
            self._live.update("", refresh=True)
        self._console.print(_Block(block, gap=self._printed))
        self._printed = True


class _Block:
    """A block without the empty lines around it, behind one of our own if `gap`.

    While it is growing, no more of its last lines are drawn than the terminal can draw again.
    """

    def __init__(self, text: str, gap: bool, growing: bool = False) -> None:
        self._text, self._gap, self._growing = text, gap, growing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = block_lines(self._text, console, options)
        if self._gap:
            lines.insert(0, [])
        if self._growing:
            lines = lines[-max(console.size.height - 2, 1) :]
        for index, line in enumerate(lines):
            if index:
                yield Segment.line()
            yield from line
        if not self._growing:
            yield Segment.line()


class NumberedItem(ListItem):
    """An item of a list, with the number it was given."""

    number = 0

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> MarkdownElement:
        """The element of a token."""
        item = cls()
        item.number = int(token.info) if token.info.isdecimal() else 0
        return item


class NumberedList(ListElement):
    """A list whose items keep their numbers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the items, each behind its own number."""
        numbers = [item.number for item in self.items if isinstance(item, NumberedItem)]
        for item, number in zip(self.items, numbers, strict=True):
            lines = list(item.render_number(console, options, number, max(numbers)))
            yield from lines or [Segment(f" {number}\n")]  # rich draws nothing of an empty item


class FoldedTable(TableElement):
    """A table that breaks a word too long for its column, where rich's cuts it off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw rich's table, its columns folded."""
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class AnswerMarkdown(Markdown):
    """An answer's Markdown. A link shows its address: a hidden one could lead anywhere."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "ordered_list_open": NumberedList,
        "list_item_open": NumberedItem,
        "table_open": FoldedTable,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup, self.parsed = text, parse(text)


def block_lines(text: str, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """A block of Markdown as lines, without the empty ones around it."""
    content = AnswerMarkdown(text.strip("\n"))
    lines = [_stripped(line) for line in console.render_lines(content, options, pad=False)]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        del lines[0]
    return lines


def _stripped(line: list[Segment]) -> list[Segment]:
    """A line without the blanks at its end, so that copying from the terminal brings none."""
    line = [segment for segment in line if not segment.control]
    while line and not line[-1].text.strip() and not _has_background(line[-1]):
        line.pop()
    if line and not _has_background(line[-1]):
        line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
    return line


def _has_background(segment: Segment) -> bool:
    return segment.style is not None and segment.style.bgcolor is not None
