"""Draws fenced code, and cuts it between lines so that long blocks stay cheap to redraw."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.syntax import Syntax
from textual.strip import Strip

from qwen3_mlx.cli.tui.growing_text import canvas, segments

SHORT, LONG = 8, 60
"""Lines from which code is cut outside strings and comments, and from which at any line."""

LONG_LINE = 2000
"""Characters from which a line counts as minified: it is drawn in parts and without colours.

A lexer may take quadratic time on such a line, and wrapping between words takes ten times as long
as wrapping anywhere.
"""

_OPEN = re.compile(r"Token\.(Literal\.String|Comment(?!\.Single)|Error)")
_FENCE = re.compile(r"( {0,3})(```+|~~~+)([^\n]*)\n")


@dataclass(frozen=True)
class Code:
    """A fenced code block. ``opening`` is its first line, ``mark`` its fence."""

    opening: str
    mark: str
    language: str
    lines: list[str]
    """The lines with their ends; the last one may be incomplete."""


def fenced(source: str) -> Code | None:
    """`source` as code if it is exactly one fenced block, perhaps still open; else None."""
    found = _FENCE.match(source)
    if found is None or ("`" in found[2] and "`" in found[3]):
        return None
    indent, mark, info = len(found[1]), found[2], found[3].strip()
    end = re.compile(rf" {{0,3}}{re.escape(mark)}{re.escape(mark[0])}*\s*")
    lines = source[found.end() :].splitlines(keepends=True)
    for number, line in enumerate(lines):
        if end.fullmatch(line):
            if "".join(lines[number + 1 :]).strip():
                return None
            lines = lines[:number]
            break
    lines = [line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in lines]
    return Code(found[0], mark, info.partition(" ")[0], lines)


def draw(code: Code, width: int) -> list[Strip]:
    """The code as coloured rows of at most `width` cells, each after a blank."""
    if not code.lines:
        return []
    if max(map(len, code.lines)) > LONG_LINE:
        rows = [row for line in code.lines for row in chopped(line.rstrip("\n"), width - 2)]
        return [Strip([Segment(" "), Segment(row)] if row else []) for row in rows]
    body = "".join(code.lines).removesuffix("\n") + "\n"
    lexer = _lexer(code.language) or "text"
    text = Syntax("", lexer, theme="ansi_dark", word_wrap=True).highlight(body)
    text.right_crop(1)
    wrapped = text.wrap(canvas(), max(width - 2, 1), tab_size=4)
    return [Strip(segments(line, before=" ")) for line in wrapped]


def chopped(line: str, width: int) -> list[str]:
    """`line` cut into rows of at most `width` cells."""
    width, line = max(width, 2), line.expandtabs(4)
    if line.isascii():
        return [line[start : start + width] for start in range(0, len(line), width)] or [""]
    cells = {letter: cell_len(letter) for letter in set(line)}
    if 0 in cells.values():  # combining characters
        return chop_cells(line, width)
    ends = list(accumulate(map(cells.__getitem__, line)))  # in cells, of each letter
    starts = [0]
    while (used := ends[starts[-1] - 1] if starts[-1] else 0) + width < ends[-1]:
        starts.append(bisect_right(ends, used + width, starts[-1]))
    return [line[start:end] for start, end in zip(starts, [*starts[1:], len(line)], strict=True)]


def cut(code: Code) -> int:
    """How many of the first lines can be drawn for good; 0 if the code is short or in a string."""
    whole = len(code.lines) - (not code.lines[-1].endswith("\n")) if code.lines else 0
    if whole <= SHORT:
        return 0
    return _last_safe_line(code, whole) or (whole if whole > LONG else 0)


def cut_line(code: Code, width: int) -> int:
    """How many characters of a very long last line can be drawn for good, else 0."""
    line = code.lines[-1] if code.lines else ""
    if len(line) <= 2 * LONG_LINE or "\t" in line:
        return 0
    *full, _ = chopped(line[:-LONG_LINE], width - 2)
    return sum(map(len, full)) if full else 0


def _last_safe_line(code: Code, whole: int) -> int:
    """The most lines, at most `whole`, after which no string or comment is open."""
    lexer = _lexer(code.language)
    if lexer is None:
        return whole
    safe = line = 0
    for kind, text in lexer.get_tokens("".join(code.lines[:whole])):
        for number, _ in enumerate(re.finditer("\n", text), 1):
            line += 1
            within = number < text.count("\n") or not text.endswith("\n")
            if not (within or _OPEN.match(str(kind))):
                safe = line
    return min(safe, whole)


@cache
def _lexer(language: str) -> Any:
    # Finding a lexer takes a millisecond.
    return Syntax("", language or "text").lexer
