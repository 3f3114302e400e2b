"""Reads the parameters of a Coder call as they are generated, and writes them as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from qwen3_mlx.text.argument_types import ArgumentTypes
from qwen3_mlx.text.coder_call import CLOSE, NAME

_PARAMETER = re.compile(rf"\s*<\s*parameter{NAME}(?=\r\n|[^\r])(\r?\n)?")
_NEXT = re.compile(rf"\s*<\s*parameter{NAME}")
_NEXT_BEGUN = re.compile(r"\s*(<[^<>]*)?")
_TAG = re.compile(rf"<\s*parameter{NAME}|(?P<close>{CLOSE})|<[/\\](?P<named>[\w.-]+)>")
# The beginning of a possible tag of the format at the end of the text so far.
_MAY_END = re.compile(
    r"<\s*(?:[/\\]\s*)?(?:(?:param|func).*|(?:p(?:ar?)?|f(?:un?)?|para)?)$|<[/\\][\w.-]*$",
    re.DOTALL,
)
_LONGEST_HELD = 4_000  # most characters held back: a possible tag, or a value that isn't text


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class CoderReader:
    """Reads parameters: text values are streamed, others sent when complete.

    A tag within a value may be part of it, or end it: which of the two is known at the end of the
    call only, so the reader stops for good. Of the tags it takes alone a closing one that a
    parameter follows.
    """

    def __init__(self, types: ArgumentTypes) -> None:
        self._types = types
        self._text = self._key = ""
        self._started = self._stopped = False
        self._keys: set[str] = set()

    def push(self, text: str) -> str:
        """The JSON that is certain once `text` has come."""
        if self._stopped or len(self._text) > _LONGEST_HELD:
            return ""
        self._text += text
        parts: list[str] = []
        while not self._stopped and (grown := self._step()):
            parts.append(grown)
        return "".join(parts)

    def _step(self) -> str:
        if not self._key:
            opened = _PARAMETER.match(self._text)
            if opened is None:
                return ""
            self._key, self._text = opened[1].strip(), self._text[opened.end() :]
            if self._key in self._keys:
                return self._stop()
        streams, tag = self._types.streams(self._key), self._tag()
        if tag is None:
            return self._grow() if streams else ""
        if tag["close"] is None:
            return self._stop(self._grow(tag.start()) if streams else "")
        behind = self._text[tag.end() :]
        if not _NEXT.match(behind):
            waits = _NEXT_BEGUN.fullmatch(behind)
            return "" if waits else self._stop(self._grow(tag.start()) if streams else "")
        return self._end(tag, streams)

    def _tag(self) -> re.Match[str] | None:
        """The first tag in the value that may end it; of other names only the parameter's own."""
        for found in _TAG.finditer(self._text):
            if found["named"] in (None, self._key, "function"):
                return found
        return None

    def _stop(self, last: str = "") -> str:
        self._stopped = True
        return last

    def _end(self, tag: re.Match[str], streams: bool) -> str:
        raw, self._text = self._text[: tag.start()], self._text[tag.end() :]
        raw = raw.removesuffix("\r\n") if raw.endswith("\r\n") else raw.removesuffix("\n")
        value = raw if streams else self._types.value(self._key, raw)
        grown = _dumps(value)[1:] if self._started else self._begin() + _dumps(value)
        self._keys.add(self._key)
        self._key, self._started = "", False
        return grown

    def _grow(self, end: int | None = None) -> str:
        """The JSON of the text that certainly belongs to the current value, which is a text."""
        text = self._text[:end]
        held = _MAY_END.search(text) if end is None else None
        safe = (text[: held.start()] if held else text).rstrip("\r\n")
        if not safe:
            return ""
        self._text = self._text[len(safe) :]
        before = "" if self._started else self._begin() + '"'
        self._started = True
        return before + _dumps(safe)[1:-1]

    def _begin(self) -> str:
        return f"{', ' if self._keys else '{'}{_dumps(self._key)}: "
