"""Parses the Coder's calls: functions and parameters in tags, with raw text as values.

A value may contain anything, tags included. It ends at a closing tag that is followed by the next
parameter or the end of the function; if that tag is missing, at the next parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from qwen3_mlx.text.argument_types import ArgumentTypes
from qwen3_mlx.text.loose_json import loose_values

NAME = r"""(?:\s*=\s*|\s+name\s*=\s*)["']?([^<>\n"']+?)["']?\s*>"""
FUNCTION = re.compile(rf"<\s*function{NAME}")
FUNCTION_CLOSE = re.compile(r"<[/\\]\s*function\s*>")
CLOSE = r"<[/\\]\s*param(?:eter)?s?\d*\b[^<>\n]*(?:>|(?=\s*(?:<|$)))"
_TAG = re.compile(
    rf"<\s*parameter{NAME}"
    rf"|{CLOSE}"
    r"|<[/\\](?P<named>[\w.-]+)>"
)
_BOUNDARY = re.compile(rf"<[/\\]\s*function\s*>\s*(?=<\s*function{NAME})")
_MOST_STEPS = 100_000  # most steps of the backtracking search


@dataclass(frozen=True, slots=True)
class _Tag:
    kind: Literal["open", "close"]
    name: str
    """The parameter named by an opening tag, or by a closing tag such as ``</city>``; else ""."""
    start: int
    end: int


def read_functions(
    text: str,
    types: Callable[[str], ArgumentTypes],
    on_offer: Callable[[str], bool],
    known: bool,
) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the functions called in `text`. Raises `ValueError`.

    `known` says whether the tools on offer are known. The closing tag of a parameter may only be
    missing before a parameter that the schema declares, or if the function is not on offer.
    """
    parts = _split(text, on_offer, known)
    return [_function(part, types, on_offer) for part in parts]


def _split(text: str, on_offer: Callable[[str], bool], known: bool) -> list[str]:
    """`text` split where one function ends and the next begins; if `known`, one on offer."""
    parts, start = [], 0
    for found in _BOUNDARY.finditer(text):
        before = text[start : found.start()].rstrip()
        closed = _ends_in(CLOSE, before) or FUNCTION.fullmatch(before)
        if on_offer(found[1].strip()) if known else closed:
            parts.append(text[start : found.end()])
            start = found.end()
    return [*parts, text[start:]]


def inside_value(text: str) -> bool:
    """Whether `text`, the beginning of a call, ends inside a parameter's value."""
    if not any(found[1] for found in _TAG.finditer(text)):
        return False
    text = text.rstrip()
    if closed := _ends_in(FUNCTION_CLOSE.pattern, text):
        text = text[: -len(closed[0])].rstrip()
    return not _ends_in(CLOSE, text)


def _ends_in(tag: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(tag, text[max(text.rfind("<"), 0) :])


def _function(
    text: str, types: Callable[[str], ArgumentTypes], on_offer: Callable[[str], bool]
) -> tuple[str, dict[str, Any]]:
    text = text.strip()
    opened = FUNCTION.match(text)
    name = opened[1].strip() if opened else ""
    if opened is None or not name:
        raise ValueError("a function has a name")
    end = len(text)
    for closed in FUNCTION_CLOSE.finditer(text, opened.end()):
        end = closed.start()
    if end == len(text) and not text[opened.end() :].strip():
        raise ValueError("a function that has not even begun")
    if FUNCTION_CLOSE.sub("", text[end:]).strip():
        raise ValueError("text behind the function")
    body = text[opened.end() : end]
    if body.lstrip().startswith("{"):
        return name, _json_body(body)
    declared, of_name = types(name), on_offer(name)
    raw = _Search(body, lambda key: declared.declares(key) or not of_name).parameters()
    return name, {key: declared.value(key, value) for key, value in raw.items()}


def _json_body(body: str) -> dict[str, Any]:
    values = loose_values(body)
    if len(values) != 1 or not isinstance(values[0], dict):
        raise ValueError("a function's arguments are one object")
    return values[0]


def value_text(raw: str) -> str:
    """`raw` without one line break at either end: these belong to the tags."""
    raw = raw.removeprefix("\r\n") if raw.startswith("\r\n") else raw.removeprefix("\n")
    return raw.removesuffix("\r\n") if raw.endswith("\r\n") else raw.removesuffix("\n")


@dataclass(slots=True)
class _Frame:
    """One parameter in the search: its opening tag, its value's end, and the remaining ends."""

    tag: int
    ends: Iterator[tuple[int, int]]
    end: int = field(init=False)


@dataclass(slots=True)
class _Search:
    """Backtracking search for the first parse of a function's body that uses all its text."""

    body: str
    is_declared: Callable[[str], bool]
    tags: list[_Tag] = field(init=False)
    follows: list[int] = field(init=False)
    """For each tag, the index of the tag that follows if it closes a value; -1 if it can't."""

    def __post_init__(self) -> None:
        self.tags = [_tag(found) for found in _TAG.finditer(self.body)]
        self.follows = [-1] * len(self.tags)
        for index in reversed(range(len(self.tags))):
            self.follows[index] = self._follow(index)

    def parameters(self) -> dict[str, str]:
        """Names and texts of the parameters. Raises `ValueError` if the body can't be parsed."""
        if not self.body.strip():
            return {}
        if not self.tags or self.tags[0].kind != "open" or self.body[: self.tags[0].start].strip():
            raise ValueError("a function holds nothing but parameters")
        frames = [_Frame(0, self._ends(0))]
        used = {self.tags[0].name}
        for _ in range(_MOST_STEPS):
            if not frames:
                break
            end, following = next(frames[-1].ends, (-1, -1))
            if end < 0:
                used.discard(self.tags[frames.pop().tag].name)
                continue
            frames[-1].end = end
            if following == len(self.tags):
                return {self.tags[f.tag].name: self._value(f) for f in frames}
            if (name := self.tags[following].name) not in used:
                used.add(name)
                frames.append(_Frame(following, self._ends(following)))
        raise ValueError("parameters that can't be told apart")

    def _value(self, frame: _Frame) -> str:
        return value_text(self.body[self.tags[frame.tag].end : frame.end])

    def _follow(self, index: int) -> int:
        tag, following = self.tags[index], index + 1
        until = self.tags[following].start if following < len(self.tags) else len(self.body)
        if tag.kind == "open" or self.body[tag.end : until].strip():
            return -1
        if following == len(self.tags) or self.tags[following].kind == "open":
            return following
        return self.follows[following] if not self.tags[following].name else -1

    def _ends(self, opened: int) -> Iterator[tuple[int, int]]:
        """Where the value of a parameter may end, and the tag that follows, most likely first."""
        name, loose = self.tags[opened].name, True
        for index in range(opened + 1, len(self.tags)):
            tag = self.tags[index]
            if tag.kind == "open":
                loose = False
                if self.is_declared(tag.name):
                    yield tag.start, index
            elif tag.name in ("", name):
                loose = False
                if self.follows[index] >= 0:
                    yield tag.start, self.follows[index]
                    return
        if loose:
            yield len(self.body), len(self.tags)


def _tag(found: re.Match[str]) -> _Tag:
    if found[1] is not None:
        return _Tag("open", found[1].strip(), found.start(), found.end())
    return _Tag("close", found["named"] or "", found.start(), found.end())
