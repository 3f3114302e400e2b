"""A widget for text that grows at its end: it draws finished blocks once, and redraws the last.

Textual asks only for visible lines, so the cost of an update doesn't grow with the text.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from io import StringIO
from itertools import takewhile

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from qwen3_mlx.cli.terminal.markdown import THEME
from qwen3_mlx.cli.terminal.screen import printable
from qwen3_mlx.cli.tui.theme import on_ground

SPARE_ROWS, QUICK_S = 3, 0.25
"""Spare rows laid out ahead if the last layout was at most so many seconds ago."""

_BREAKS = re.compile(r"[\n\t]")


def showable(text: str) -> str:
    """`text` for the full screen: `printable`, with tabs expanded."""
    return printable(text).replace("\t", "    ")


@dataclass(slots=True)
class Block:
    """A piece of the text that won't change.

    gap: whether an empty line precedes it; in a result of `GrowingText.cut`, follows it.
    """

    source: str
    gap: bool


class GrowingText(Widget):
    """Base class: subclasses define how a block is drawn and where the text may be cut."""

    DEFAULT_CSS = "GrowingText { width: 1fr; height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []
        self._blocks: list[Block] = []
        self._tail = Block("", gap=False)
        self._fixed: list[Strip] = []
        self._moving: list[Strip] = []
        self._width = 0
        self._spare, self._grew = 0, 0.0

    @abstractmethod
    def draw(self, source: str, width: int) -> list[Strip]:
        """A block's lines in `width` cells."""

    @abstractmethod
    def cut(self, tail: str) -> tuple[list[Block], str]:
        """The blocks of `tail` that won't change, and the rest."""

    @property
    def source(self) -> str:
        """The whole text."""
        return "".join(self._pieces)

    @property
    def lines(self) -> list[Strip]:
        """All drawn lines."""
        return self._fixed + self._moving

    def append(self, text: str) -> None:
        """Add `text` to the end."""
        self._pieces.append(text)
        start, before = len(self._fixed), self._moving
        finished, rest = self.cut(self._tail.source + text)
        gap = self._tail.gap
        for block in finished:
            done = Block(block.source, gap)
            self._blocks.append(done)
            if self._width:
                self._fixed += self._draw(done)
            gap = block.gap
        self._tail = Block(rest, gap)
        if self._width:
            self._moving = self._draw_tail()
            self._changed(start, before)

    def free_spare_rows(self) -> None:
        """Remove the spare rows, when no more text is expected."""
        if self._spare:
            self._spare = 0
            self.refresh(layout=True)

    def _changed(self, start: int, before: list[Strip]) -> None:
        """Repaint the rows that differ from `before`, which began at row `start`.

        A layout costs ten times as much as a line, so a quickly growing text gets blank spare rows
        in advance.
        """
        after = [*self._fixed[start:], *self._moving]
        grown = len(after) - len(before)
        pairs = zip(before, after, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        rows = max(len(before), len(after)) - same
        if over := grown > self._spare:
            now = time.monotonic()
            self._spare, self._grew = SPARE_ROWS if now - self._grew < QUICK_S else 0, now
            rows += self._spare
        else:
            self._spare -= grown
        if rows:
            self.refresh(Region(0, start + same, self._width, rows), layout=over)

    def _draw(self, block: Block) -> list[Strip]:
        lines = self.draw(block.source, self._width) if block.source.strip() else []
        return [Strip([]), *lines] if lines and block.gap else lines

    def _draw_tail(self) -> list[Strip]:
        return self._draw(self._tail)

    def _lay_out(self, width: int) -> None:
        if width != self._width:
            self._width = width
            self._fixed = [line for block in self._blocks for line in self._draw(block)]
            self._moving = self._draw_tail()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """The number of lines plus spare rows."""
        self._lay_out(max(width, 1))
        return len(self._fixed) + len(self._moving) + self._spare

    def render_line(self, y: int) -> Strip:
        """The line in row `y`."""
        fixed = len(self._fixed)
        if y < fixed:
            line = self._fixed[y]
        elif y - fixed < len(self._moving):
            line = self._moving[y - fixed]
        else:
            return Strip.blank(self.size.width)
        if not self.app.native_ansi_color:
            line = on_ground(line, self.rich_style)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(y)) is not None:
            line = self._selected(line, *span)
        return line.apply_offsets(0, y)

    def _selected(self, line: Strip, start: int, end: int) -> Strip:
        style = self.screen.get_component_rich_style("screen--selection")
        text = Text("").join(Text(part.text, part.style or "", end="") for part in line)
        text.stylize(style, start, len(text) if end < 0 else end)
        return Strip(text.render(canvas()))

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text."""
        return selection.extract("\n".join(line.text for line in self.lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        """Repaint with the new selection."""
        self.refresh()


@cache
def canvas() -> Console:
    """A console used only to produce segments; the app reduces the colours."""
    return Console(
        file=StringIO(),
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
        theme=THEME,
        legacy_windows=False,
        no_color=False,
    )


def wrapped(text: str, width: int, style: str = "") -> list[Strip]:
    """`text` broken between words into lines of at most `width` cells."""
    if not _BREAKS.search(text) and cell_len(text) <= width:  # a fast path with the same result
        text = text.rstrip()
        return [Strip([Segment(text, Style.parse(style) if style else None)] if text else [])]
    whole = Text(text)
    whole.stylize(style)  # rendering a single line would lose a base style
    lines = whole.wrap(canvas(), width, tab_size=4)
    return [Strip(segments(line)) for line in lines]


def segments(line: Text, before: str = "") -> list[Segment]:
    """A line's segments without trailing blanks, after `before` unless the line is empty."""
    line.rstrip()
    line.end = ""
    parts = [part for part in line.render(canvas()) if part.text]
    return [Segment(before), *parts] if before and parts else parts
