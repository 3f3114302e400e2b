"""Parses the Markdown of a model's answer, in a dialect that hides no text.

Unlike on a web page, text in angle brackets, link definitions, backslashes and formulas are shown,
and every newline breaks the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

# The bounds keep the search linear in a text that is full of dollar signs.
_FORMULA = re.compile(
    r"\\\(.{1,1000}?\\\)|\\\[.{1,2000}?\\\]|\$\$.{1,2000}?\$\$"
    r"|\\begin\{(?P<name>\w+\*?)\}.{1,4000}?\\end\{(?P=name)\}"
    r"|\$(?![\s$])[^$\n]{0,500}?(?<![\s\\$])\$(?![\d$])",
    re.DOTALL,
)
_BLOCK = re.compile(r"(?P<dollars>\$\$)|(?P<bracket>\\\[)|\\begin\{(?P<name>\w+\*?)\}")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_YEAR = re.compile(r"\d{4,9}[.)]")


def parse(text: str) -> list[Token]:
    """The tokens of `text`; every newline in a paragraph is a line break."""
    tokens = _parser().parse(text)
    for token in tokens:
        if token.children:
            token.children = list(_made_visible(token.children))
    return tokens


def _made_visible(tokens: list[Token]) -> Iterator[Token]:
    """Inline tokens, with what rich omits added as text: images' addresses, links' titles."""
    titles: list[str] = []
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        elif token.type == "image":
            title = f' "{token.attrs["title"]}"' if token.attrs.get("title") else ""
            address = f"{token.attrs.get('src', '')}{title}"
            token.type, token.tag = "text", ""
            token.content, token.children = f"![{token.content}]({address})", None
        elif token.type == "link_open":
            titles.append(str(token.attrs.get("title") or ""))
        yield token
        if token.type == "link_close" and (title := titles.pop()):
            yield _text_token(f' "{title}"')


def _text_token(content: str) -> Token:
    from markdown_it.token import Token

    return Token("text", "", 0, content=content)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt().enable(["strikethrough", "table"])
    parser.disable(["html_inline", "html_block", "reference", "entity", "autolink"])
    parser.inline.ruler.before("escape", "formula", _formula)
    parser.inline.ruler.at("escape", _backslash)
    parser.inline.ruler.push("br", _line_break)
    parser.block.ruler.before(
        "fence", "formula_block", _formula_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    parser.block.ruler.at("list", _list, {"alt": ["paragraph", "reference", "blockquote"]})
    parser.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    parser.normalizeLink = _as_written  # type: ignore[method-assign, assignment]
    return parser


def _as_written(address: str) -> str:
    return address


def _formula(state: StateInline, silent: bool) -> bool:
    """``$…$``, ``\\(…\\)`` and the like, verbatim."""
    found = _FORMULA.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _backslash(state: StateInline, silent: bool) -> bool:
    """A backslash escapes a mark, and is shown."""
    if state.src[state.pos] != "\\":
        return False
    end = min(state.pos + 2, state.posMax)
    if state.src[end - 1] == "\n":
        end -= 1
    if not silent:
        state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _line_break(state: StateInline, silent: bool) -> bool:
    """``<br>``, a line break that models write in tables."""
    found = _BREAK.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = found.end()
    return True


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Lines from ``$$``, ``\\[`` or ``\\begin`` to its end, verbatim; an empty line prevents it."""
    first = _line(state, start)
    found = _BLOCK.match(first)
    if found is None or state.is_code_block(start):
        return False
    closing = (
        "$$" if found["dollars"] else "\\]" if found["bracket"] else f"\\end{{{found['name']}}}"
    )
    lines, number, rest = [first], start + 1, first[found.end() :]
    while closing not in rest:
        if number >= end or state.isEmpty(number) or state.sCount[number] < state.blkIndent:
            return False
        rest = _line(state, number)
        lines.append(" " * max(state.sCount[number] - state.blkIndent, 0) + rest)
        number += 1
    if silent:
        return True
    state.line = number
    opening = state.push("paragraph_open", "p", 1)
    opening.map = [start, number]
    inline = state.push("inline", "", 0)
    inline.content, inline.map, inline.children = "", [start, number], []
    inline.children = [_text_token("\n".join(lines))]
    state.push("paragraph_close", "p", -1)
    return True


def _list(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A list; but a year at the beginning of a line is not an item's number."""
    from markdown_it.rules_block import list_block

    return not _YEAR.match(_line(state, start)) and list_block(state, start, end, silent)


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A table, unless a row has more cells than the header, which rich would not show."""
    from markdown_it.rules_block import table
    from markdown_it.rules_block.table import escapedSplit

    before, line = len(state.tokens), state.line
    if not table(state, start, end, silent):
        return False
    if silent:
        return True

    def cells(number: int) -> int:
        return len(escapedSplit(_line(state, number).strip().removeprefix("|").removesuffix("|")))

    if any(cells(number) > cells(start) for number in range(start + 2, state.line)):
        del state.tokens[before:]
        state.line = line
        return False
    return True
