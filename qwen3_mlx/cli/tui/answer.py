"""The widget that draws an answer as Markdown while it streams."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from textual.strip import Strip

from qwen3_mlx.cli.terminal.grammar import parse
from qwen3_mlx.cli.terminal.markdown import block_lines, split_finished
from qwen3_mlx.cli.tui import code
from qwen3_mlx.cli.tui.growing_text import Block, GrowingText, canvas, showable

LONG_LINES, LONG_CHARS = 24, 1600
"""Size from which a block is cut, because every new piece redraws the last block."""
LIST_LINES, ITEM_LINES = 10, 60
"""Lines from which a list is cut between items, and one item at any line."""

_FENCE = re.compile(r" *(```+|~~~+)")
_ITEM = re.compile(r"([-*+]|\d{1,9}[.)]) ")


class Answer(GrowingText):
    """An answer, drawn block by block."""

    DEFAULT_CSS = "Answer { padding: 0 1 1 1; }"

    def draw(self, source: str, width: int) -> list[Strip]:
        """A block of Markdown as lines."""
        if block := code.fenced(source):
            return code.draw(block, width)
        lines = block_lines(source, canvas(), canvas().options.update_width(width))
        return [Strip(line) for line in lines]

    def append(self, text: str) -> None:
        """Add a piece of the answer."""
        super().append(showable(text))

    def cut(self, tail: str) -> tuple[list[Block], str]:
        """The finished blocks of `tail`, including the start of a last block that is too long."""
        blocks: list[str] = []
        if "\n" in tail:
            blocks, tail = split_finished(tail)
        finished = [Block(block, gap=True) for block in blocks]
        head, tail, gap = cut_long(tail, [line.text for line in self._moving], self._width)
        finished += [Block(head, gap)] if head else []
        return finished, tail

    def code_blocks(self) -> list[str]:
        """The contents of the answer's fenced code blocks, in order."""
        return code_blocks(self.source)


def code_blocks(markdown: str) -> list[str]:
    """The contents of all fenced code blocks."""
    return [token.content for token in parse(markdown) if token.type == "fence"]


def cut_long(tail: str, drawn: Sequence[str] = (), width: int = 0) -> tuple[str, str, bool]:
    """(the part that won't change, the rest, whether an empty line separates them).

    Code is cut between lines and its fence repeated, a table likewise with its header, a list
    between items, other text between words at the end of a line in `drawn`. The first part is
    empty if `tail` is short or has no such place yet.
    """
    if block := code.fenced(tail):
        if spot := code.cut_line(block, width):
            *before, last = block.lines
            head = "".join([block.opening, *before, last[:spot], "\n", block.mark, "\n"])
            return head, block.opening + last[spot:], False
        spot = code.cut(block)
        head = block.opening + "".join(block.lines[:spot]) + block.mark + "\n"
        rest = block.opening + "".join(block.lines[spot:])
        return (head, rest, False) if spot else ("", tail, False)
    lines = tail.splitlines(keepends=True)
    if _ITEM.match(tail):
        return _cut_list(tail, lines)
    if len(tail) <= LONG_CHARS and len(lines) <= LONG_LINES:
        return "", tail, False
    if tail.startswith("|") and len(lines) > 6:
        return "".join(lines[:-2]), "".join(lines[:2] + lines[-2:]), False
    if tail.startswith(">") and len(lines) > 2:
        return "".join(lines[:-2]), "".join(lines[-2:]), False
    spot = _spot_in_prose(tail, drawn)
    return tail[:spot], tail[spot:], False


def _spot_in_prose(tail: str, drawn: Sequence[str]) -> int:
    """The index after the words of the first half of the drawn lines, or else the middle."""
    words = sum(len(line.split()) for line in drawn[: len(drawn) // 2])
    found = re.match(rf"\s*(?:\S+\s+){{{words}}}", tail) if 0 < words < 1000 else None
    if found and found.end() < 0.8 * len(tail):
        return found.end()
    middle = len(tail) // 2
    return tail.rfind(" ", middle // 2, middle) + 1 or middle  # Chinese has no spaces


def _cut_list(tail: str, lines: list[str]) -> tuple[str, str, bool]:
    """Cut a list before its last item, or a very long item before its last line."""
    if len(tail) <= LONG_CHARS and len(lines) <= LIST_LINES:
        return "", tail, False
    spot = _last(range(len(lines) - 1, 0, -1), lambda n: bool(_ITEM.match(lines[n])))
    if not spot and len(lines) <= ITEM_LINES:
        return "", tail, False
    opening = closing = ""
    if not spot:
        spot = len(lines) - 1
        for line in lines[:spot]:
            if fence := _FENCE.match(line):
                opening, closing = ("", "") if opening else (line, fence[0] + "\n")
    loose = not lines[spot - 1].strip() and not opening
    return "".join(lines[:spot]) + closing, opening + "".join(lines[spot:]), loose


def _last(places: range, fits: Callable[[int], bool]) -> int:
    return next((place for place in places if fits(place)), 0)
