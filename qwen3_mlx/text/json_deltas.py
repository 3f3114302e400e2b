"""Reads the arguments of a Hermes call as they are generated, and normalises their JSON."""

from __future__ import annotations

import json
import math
import re

_SPACE = re.compile(r"\s*")
_KEY = re.compile(r'\s*"([^"\\\x00-\x1f]*)"\s*:')
_KEY_BEGUN = re.compile(r'\s*("[^"\\\x00-\x1f]*("\s*)?)?')
_SCALAR = re.compile(r'[^\s{}\[\],:"]+')
_STRING = re.compile(
    r'[^"\\\x00-\x1f]+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r'|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|\\["\\/bfnrt]|(")'
)
_LONGEST_HELD = 4_000  # most characters held back: behind them `finish` sends the rest
_CLOSERS = {"{": "}", "[": "]"}


def closers(text: str) -> str:
    """What makes whole JSON of `text`, which ends in a string or behind a value or a bracket."""
    opened: list[str] = []
    in_string = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif in_string and character == "\\":
            escaped = True
        elif character == '"':
            in_string = not in_string
        elif not in_string and character in _CLOSERS:
            opened.append(_CLOSERS[character])
        elif not in_string and character in ("}", "]"):
            opened.pop()
    return ('"' if in_string else "") + "".join(reversed(opened))


class JsonReader:
    """Reads arguments after their opening brace; stops for good at what isn't strict JSON.

    What it returns ends in a string, behind a value or behind a bracket: a key waits for its
    value, and the last brace for the end of the call.
    """

    def __init__(self) -> None:
        self._text, self._in_string, self._stopped = "", False, False
        self._open = ["{"]
        self._waiting = "{"
        """Brackets, commas and keys that are held back until the next value."""
        self._expects = "key"
        """``key`` (or the end of the object), ``value``, ``first`` (or the end of the list),
        ``mark`` (a comma or the end)."""

    def push(self, text: str) -> str:
        """The normalised JSON that is certain once `text` has come."""
        if self._stopped:
            return ""
        self._text += text
        parts: list[str] = []
        while (part := self._step()) is not None:
            parts.append(part)
        if len(self._text) > _LONGEST_HELD:
            self._stop()
        return "".join(parts)

    def _step(self) -> str | None:
        """The next part of the JSON, possibly ""; None if the text so far has no more."""
        if self._stopped:
            return None
        if self._in_string:
            return self._string()
        self._text = self._text[_end(_SPACE, self._text) :]
        if not self._text:
            return None
        mark = self._text[0]
        if mark == _CLOSERS[self._open[-1]] and self._expects != "value":
            return self._close(mark)
        if self._expects == "mark":
            return self._comma() if mark == "," else self._stop()
        return self._key() if self._expects == "key" else self._value(mark)

    def _stop(self) -> str | None:
        self._stopped, self._text = True, ""
        return None

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def _released(self) -> str:
        waiting, self._waiting = self._waiting, ""
        return waiting

    def _close(self, mark: str) -> str | None:
        self._take(1)
        self._open.pop()
        if not self._open:  # `finish` sends the last brace
            return self._stop()
        self._expects = "mark"
        return self._released().removesuffix(", ") + mark

    def _comma(self) -> str:
        self._take(1)
        self._waiting += ", "
        self._expects = "key" if self._open[-1] == "{" else "first"
        return ""

    def _key(self) -> str | None:
        found = _KEY.match(self._text)
        if found is None:
            return None if _KEY_BEGUN.fullmatch(self._text) else self._stop()
        self._take(found.end())
        self._waiting += f'"{found[1]}": '
        self._expects = "value"
        return ""

    def _value(self, mark: str) -> str | None:
        if mark in _CLOSERS:
            self._take(1)
            self._open.append(mark)
            self._waiting += mark
            self._expects = "key" if mark == "{" else "first"
            return ""
        self._expects = "mark"
        if mark == '"':
            self._take(1)
            self._in_string = True
            return self._released() + '"'
        return self._scalar()

    def _scalar(self) -> str | None:
        end = _end(_SCALAR, self._text)
        if end == len(self._text):
            self._expects = "value" if self._open[-1] == "{" else "first"
            return None
        try:
            value = json.loads(self._take(end))
        except ValueError:
            return self._stop()
        if isinstance(value, float) and not math.isfinite(value):
            return self._stop()
        return self._released() + json.dumps(value)

    def _string(self) -> str | None:
        found = _STRING.match(self._text)
        if found is None:
            return None
        self._take(found.end())
        if found[1]:
            self._in_string = False
            return '"'
        return json.dumps(json.loads(f'"{found[0]}"'), ensure_ascii=False)[1:-1]


def _end(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return found.end() if found else 0
