"""Draws an answer as Markdown while it streams.

Finished blocks (paragraph, list, table, code) are printed once. Only the last block is redrawn as
it grows, and only its end if it is taller than the terminal, so a long answer doesn't flicker.
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

# rich's default has a black background, which looks wrong on a light terminal.
THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})

FRAME_S = 0.08
"""Least seconds between two redraws of the growing block."""


def split_finished(text: str) -> tuple[list[str], str]:
    """The top-level blocks of `text` that further text can't change, and the rest.

    The last block may grow, and an incomplete line may turn out to belong to the block before it.
    So only complete lines count, and the last block is never finished.
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
    """Draws an answer as Markdown on a terminal's stdout."""

    def __init__(self, screen: Screen) -> None:
        self._console = Console(file=screen.out, highlight=False, theme=THEME)
        self._live: Live | None = None
        self._tail, self._drawn_at, self._printed = "", 0.0, False

    def write(self, text: str) -> None:
        """Add a piece: print the blocks it finishes, and redraw the last one once per frame."""
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
        """Print the last block."""
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
            # Without this rich draws the live block once more below the finished one.
            self._live.update("", refresh=True)
        self._console.print(_Block(block, gap=self._printed))
        self._printed = True


class _Block:
    """A block without surrounding empty lines; with `gap`, one empty line precedes it.

    While it grows, only as many of its last lines are drawn as the terminal can redraw.
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
    """A list item that keeps the number in the source."""

    number = 0

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> MarkdownElement:
        """The element for `token`."""
        item = cls()
        item.number = int(token.info) if token.info.isdecimal() else 0
        return item


class NumberedList(ListElement):
    """A list whose items show the numbers in the source."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the items, each after its own number."""
        numbers = [item.number for item in self.items if isinstance(item, NumberedItem)]
        for item, number in zip(self.items, numbers, strict=True):
            lines = list(item.render_number(console, options, number, max(numbers)))
            yield from lines or [Segment(f" {number}\n")]  # rich omits empty items


class FoldedTable(TableElement):
    """A table that folds words too long for their column; rich truncates them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw rich's table with folding columns."""
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class AnswerMarkdown(Markdown):
    """An answer's Markdown. Links show their address, since a hidden one could mislead."""

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
    """A block of Markdown as lines, without surrounding empty lines."""
    content = AnswerMarkdown(text.strip("\n"))
    lines = [_stripped(line) for line in console.render_lines(content, options, pad=False)]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        del lines[0]
    return lines


def _stripped(line: list[Segment]) -> list[Segment]:
    """A line without trailing blanks, which would end up in copied text."""
    line = [segment for segment in line if not segment.control]
    while line and not line[-1].text.strip() and not _has_background(line[-1]):
        line.pop()
    if line and not _has_background(line[-1]):
        line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
    return line


def _has_background(segment: Segment) -> bool:
    return segment.style is not None and segment.style.bgcolor is not None
