"""Decides whether a turn thinks, from the family, the options and the soft switches in messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import Family
from qwen3_mlx.text.messages import joined_text

# A separate word: not /thinking, not a/think/b, not ./think, not </think>; nor in quotes or
# backticks, nor before a question mark. re.ASCII, because Chinese, written without spaces, may
# precede it directly.
_FLAG = r"/(?:no_)?think(?![\w/`'\"<>?-]|[”’»」』？]|\.\w)"
_AT_START = re.compile(rf"[\s(\[]*({_FLAG})(?:[\s,]+({_FLAG}))*", re.ASCII)
_AT_END = re.compile(
    rf"(?<![\w/.~<>`'\"-])(?<![“‘«「『])({_FLAG})[\s)\].,;:!*_。，；：！）]*$",
    re.ASCII,
)
_FENCES = ("```", "~~~")


@dataclass(frozen=True, slots=True)
class Mode:
    """The thinking mode of one turn."""

    thinking: bool
    """Whether the model is expected to think; selects the sampling preset."""
    template_flag: bool | None
    """The template's variable ``enable_thinking``; None leaves it undefined."""
    starts_inside: bool
    """Whether the rendered prompt ends in an open ``<think>``."""


def resolve_mode(
    family: Family,
    messages: Iterable[Mapping[str, Any]],
    thinking: bool | None,
    budget: int | None,
    thinks_by_default: bool = True,
) -> Mode:
    """The mode of a turn from the model's family, the options and the soft switches.

    A budget of 0 means ``thinking=False``. `thinking` overrides the soft switches, which override
    the template's default. Raises `OptionError` if the family lacks the requested mode.
    """
    off = thinking is False or budget == 0
    if family == "hybrid":
        return _hybrid(messages, False if off else thinking, thinks_by_default)
    if family == "thinking":
        if off:
            hint = "give it a small thinking budget, or load a hybrid or Instruct model"
            raise OptionError("this model always thinks: it can't be switched off", hint=hint)
        return Mode(True, None, starts_inside=True)
    if thinking or budget:
        hint = "load a hybrid or Thinking-2507 model, or leave thinking and its budget out"
        raise OptionError("this model never thinks", hint=hint)
    return Mode(False, None, starts_inside=False)


def _hybrid(
    messages: Iterable[Mapping[str, Any]], thinking: bool | None, thinks_by_default: bool
) -> Mode:
    if thinking is not None:
        return Mode(thinking, thinking, starts_inside=False)
    switch = soft_switch(messages)
    expected = thinks_by_default if switch is None else switch
    # A template that is off by default renders a closed think block; /think in the text can't
    # reopen it, so the template gets the flag.
    opened = True if expected and not thinks_by_default else None
    return Mode(expected, opened, starts_inside=False)


def soft_switch(messages: Iterable[Mapping[str, Any]]) -> bool | None:
    """The last /think (True) or /no_think (False) in system and user messages, else None.

    A flag counts at the start or the end of a line. It is ignored in quotes, in backticks, in
    code, in a quoted line (``> …``), and before a question mark.
    """
    flags = [
        flag
        for message in messages
        if message.get("role") in ("system", "developer", "user")
        for line in _prose(_text(message.get("content")))
        for flag in _flags(line)
    ]
    return flags[-1] == "/think" if flags else None


def _text(content: object) -> str:
    return content if isinstance(content, str) else joined_text(content)


def _prose(text: str) -> Iterator[str]:
    """The lines of `text` outside fenced code and ``>`` quotations."""
    fence = ""
    for line in text.splitlines():
        start = line.strip()[:3]
        if start in _FENCES and fence in ("", start):
            fence = "" if fence else start
        elif not fence and not start.startswith(">"):
            yield line


def _flags(line: str) -> Iterator[str]:
    if start := _AT_START.match(line):
        yield start[2] or start[1]
    if end := _AT_END.search(line):
        yield end[1]
