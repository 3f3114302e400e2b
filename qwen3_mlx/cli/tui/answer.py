"""The answer, drawn as Markdown while it streams."""

from __future__ import annotations

import re
from collections.abc import Callable

from textual.strip import Strip

from qwen3_mlx.cli.markdown import block_lines, split_finished
from qwen3_mlx.cli.tui.paper import Block, Paper, canvas, showable

LONG_LINES, LONG_CHARS = 24, 3000
"""A block beyond this is cut where it can be, so that drawing it anew stays cheap."""

_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_ITEM = re.compile(r"([-*+]|\d{1,9}[.)]) ")


class Answer(Paper):
    """What the model says, block by block."""

    DEFAULT_CSS = "Answer { padding: 0 1 1 1; }"

    def draw(self, source: str, width: int) -> list[Strip]:
        """A block of Markdown as lines."""
        lines = block_lines(source, canvas(), canvas().options.update_width(width))
        return [Strip(line) for line in lines]

    def append(self, text: str) -> None:
        """Add a piece of the answer."""
        super().append(showable(text))

    def cut(self, tail: str) -> tuple[list[Block], str]:
        """Whole blocks of Markdown; and of one that grows too long, what has passed."""
        blocks: list[str] = []
        if "\n" in tail:
            blocks, tail = split_finished(tail)
        finished = [Block(block, gap=True) for block in blocks]
        if len(tail) > LONG_CHARS or tail.count("\n") > LONG_LINES:
            head, tail, gap = cut_long(tail)
            finished += [Block(head, gap)] if head else []
        return finished, tail

    def code_blocks(self) -> list[str]:
        """The fenced code in it, in order."""
        return code_blocks(self.source)


def code_blocks(markdown: str) -> list[str]:
    """The contents of all fenced code blocks."""
    from rich.markdown import Markdown

    return [token.content for token in Markdown(markdown).parsed if token.type == "fence"]


def cut_long(tail: str) -> tuple[str, str, bool]:
    """(what can be drawn for good, the rest, whether an empty line stands between them).

    Code is cut between lines and its fence repeated, a table its head, a list between items;
    anything else is cut between words. The first is empty where there is no such place yet.
    """
    lines = tail.splitlines(keepends=True)
    if fence := _FENCE.match(tail):
        spot = _last(
            range(len(lines) - 2, 0, -1), lambda n: bool(lines[n].strip() and lines[n - 1].strip())
        )
        head = "".join(lines[:spot]) + fence[1] + "\n"
        return (head, lines[0] + "".join(lines[spot:]), False) if spot > 1 else ("", tail, False)
    if _ITEM.match(tail):
        spot = _last(range(len(lines) - 1, 0, -1), lambda n: bool(_ITEM.match(lines[n])))
        loose = spot > 0 and not lines[spot - 1].strip()
        return "".join(lines[:spot]), "".join(lines[spot:]), loose
    if tail.startswith("|") and len(lines) > 6:
        return "".join(lines[:-2]), "".join(lines[:2] + lines[-2:]), False
    spot = tail.rfind(" ", 0, len(tail) // 2) + 1
    return tail[:spot], tail[spot:], False


def _last(places: range, fits: Callable[[int], bool]) -> int:
    return next((place for place in places if fits(place)), 0)
