"""Fenced code in an answer: drawn and cut by lines, so that a long block stays cheap to draw."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.syntax import Syntax
from textual.strip import Strip

from qwen3_mlx.cli.tui.growing_text import canvas, segments

SHORT, LONG = 8, 60
"""Lines beyond which code is cut: where no string or comment is open; and anywhere."""

LONG_LINE = 2000
"""Characters from which a line is minified or encoded: it has no colours, and is drawn in parts."""

_OPEN = re.compile(r"Token\.(Literal\.String|Comment(?!\.Single)|Error)")
_FENCE = re.compile(r"( {0,3})(```+|~~~+)([^\n]*)\n")


@dataclass(frozen=True)
class Code:
    """A block that begins with a fence: ``opening`` is its first line."""

    opening: str
    mark: str
    language: str
    lines: list[str]
    """Each with its line end, but for the last one while it comes."""


def fenced(source: str) -> Code | None:
    """`source` as code, if it is one fenced block and nothing else; its end may be missing."""
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
    """Its lines in colour, a blank before each; what is too long is broken."""
    if not code.lines:
        return []
    # a lexer may take quadratic time on a line that it can't make sense of
    is_long = max(map(len, code.lines)) > LONG_LINE
    lexer = None if is_long else _lexer(code.language)
    body = "".join(code.lines).removesuffix("\n") + "\n"
    text = Syntax("", lexer or "text", theme="ansi_dark", word_wrap=True).highlight(body)
    text.right_crop(1)
    wrapped = text.wrap(canvas(), max(width - 2, 1), tab_size=4)
    return [Strip(segments(line, before=" ")) for line in wrapped]


def cut(code: Code) -> int:
    """How many of its first lines can be drawn for good: 0 while it is short, or in a string."""
    whole = len(code.lines) - (not code.lines[-1].endswith("\n")) if code.lines else 0
    if whole <= SHORT:
        return 0
    return _last_safe_line(code, whole) or (whole if whole > LONG else 0)


def cut_line(code: Code, width: int) -> int:
    """How many characters of its last line can be drawn for good, in rows of `width`; or 0."""
    length = len(code.lines[-1]) if code.lines else 0
    return (length - LONG_LINE) // width * width if length > 2 * LONG_LINE else 0


def _last_safe_line(code: Code, whole: int) -> int:
    """The most lines, `whole` at most, behind which no string or comment goes on."""
    lexer = _lexer(code.language)
    if lexer is None:
        return whole
    settled = line = 0
    for kind, text in lexer.get_tokens("".join(code.lines[:whole])):
        for number, _ in enumerate(re.finditer("\n", text), 1):
            line += 1
            within = number < text.count("\n") or not text.endswith("\n")
            if not (within or _OPEN.match(str(kind))):
                settled = line
    return min(settled, whole)


@cache
def _lexer(language: str) -> Any:
    # finding one takes a millisecond, each time
    return Syntax("", language or "text").lexer
