"""Formats calls, results and servers for the user, with every hidden character made visible.

Lines of a multi-line value begin with a bar, so that no value can look like another argument.
"""

from __future__ import annotations

import json
import shlex
import unicodedata
from functools import cache
from typing import Any

from qwen3_mlx.tools.events import Ending, ToolResult
from qwen3_mlx.tools.result_text import DECLINED, NOT_RUN
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.tool import Tool

RESULT_LINES, RESULT_WIDTH = 6, 200
"""Lines, and characters per line, of a result that are shown; the conversation has all of it."""

_HIDING = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_BLANKS = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Characters of other categories that are invisible."""


def visible(text: str) -> str:
    """`text` with ``⟨U+001B⟩`` and the like for every invisible or control character."""
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


@cache
def _visible(letter: str) -> str:
    kind = unicodedata.category(letter)
    is_variant = 0xFE00 <= ord(letter) <= 0xFE0F or 0xE0100 <= ord(letter) <= 0xE01EF
    hides = kind in _HIDING or (kind == "Zs" and letter != " ") or letter in _BLANKS or is_variant
    return f"⟨U+{ord(letter):04X}⟩" if hides else letter


def title(tool: Tool) -> str:
    """``server.tool``, and the server's claims about it."""
    claims = f" (its server says: {', '.join(tool.hints)})" if tool.hints else ""
    return visible(f"{tool.full_name}{claims}")


def argument_lines(arguments: dict[str, Any]) -> list[str]:
    """All arguments in full, one or more lines each."""
    lines: list[str] = []
    for name, value in arguments.items():
        shown = visible(name)
        if isinstance(value, str) and "\n" in value:
            lines.append(f"{shown}:")
            lines += [f"│ {visible(line)}" for line in value.split("\n")]
        else:
            lines.append(f"{shown}: {visible(json.dumps(value, ensure_ascii=False))}")
    return lines or ["no arguments"]


def result_lines(result: ToolResult) -> list[str]:
    """A call's outcome, and the first lines of its result."""
    took = f" · {result.seconds:.1f} s" if result.seconds else ""
    lines = result.text.split("\n")
    more = len(lines) - RESULT_LINES
    head = lines if more <= 1 else lines[:RESULT_LINES]
    shown = [f"│ {_short(visible(line))}" for line in head]
    rest = [f"│ … {more:,} more lines"] if more > 1 else []
    return [f"{_outcome(result)}{took}", *shown, *rest]


def _outcome(result: ToolResult) -> str:
    """What became of a call; a server's own text can't begin like that of one that did not run."""
    if result.text.startswith(DECLINED):
        return "✗ declined"
    if result.text.startswith(NOT_RUN):
        return "✗ not run"
    return "✗ failed" if result.failed else "✓ done"


def _short(line: str) -> str:
    cut = len(line) - RESULT_WIDTH
    return line if cut <= 0 else f"{line[:RESULT_WIDTH]}… {cut:,} characters more"


def server_lines(config: ServerConfig) -> list[str]:
    """A server's command or address; of variables and headers only the names."""
    if config.url:
        lines = [f"it is asked at: {visible(config.url)}"]
        lines += [f"with the headers: {visible(', '.join(config.headers))}"] * bool(config.headers)
    else:
        lines = [f"it runs: {visible(shlex.join(config.command))}"]
        lines += [f"in the folder: {visible(config.cwd)}"] if config.cwd else []
        lines += [f"with the variables: {visible(', '.join(config.env))}"] * bool(config.env)
    if config.allowed:
        lines.append(f"without asking then: {visible(', '.join(config.allowed))}")
    return lines


ENDINGS: dict[Ending, str] = {
    "answered": "",
    "length": "",
    "interrupted": "",
    "steps": "the turn has had all its steps: say what is to be done next",
    "repeated": "the model made the same call again and again: the turn is ended",
}
"""The note for a turn's ending; empty if the chat reports it elsewhere."""
