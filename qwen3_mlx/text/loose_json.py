"""Parses JSON that models generate: valid, or damaged in a way that has one repair."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

_TOKEN = re.compile(r'["{}\[\],]|[^"{}\[\],]+')
_IN_STRING = re.compile(r'["\\]|[^"\\]+')
_CODE_POINT = re.compile("u[0-9a-fA-F]{4}")
_CLOSERS = {"{": "}", "[": "]"}
_ESCAPED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MOST_MISSING = 2  # most closing brackets that may be missing at the end


class Repeated(dict[str, Any]):
    """A JSON object in which the keys `repeated` stand more than once; each has its last value."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        times = Counter(name for name, _ in pairs)
        self.repeated = {name for name, count in times.items() if count > 1}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def strict_json(text: str) -> Any:
    """Parse JSON. Raises `ValueError`; also for NaN, infinity, lone surrogates and deep nesting."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


class JsonScanner:
    """Tracks whether a JSON text, given in pieces, is inside a string."""

    def __init__(self) -> None:
        self.in_string = False
        self._escaped = False

    def push(self, text: str) -> None:
        """Append a piece of text."""
        for character in text:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = self.in_string
            elif character == '"':
                self.in_string = not self.in_string


def loose_values(text: str) -> list[Any]:
    """The objects and arrays in `text`, one after another. Raises `ValueError`.

    Repairs control characters in strings (line breaks, tabs), invalid escapes (``\\d``), commas
    before a closing bracket, up to two missing closing brackets at the end, and one too many.
    """
    values: list[Any] = []
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n,;":
            position += 1
        elif values and text[position:].strip() in ("}", "]"):
            break
        else:
            value, position = _value(text, position)
            values.append(value)
    return values


def _value(text: str, start: int) -> tuple[Any, int]:
    """The object or array that begins at `start`, and the position after it."""
    if text[start] not in _CLOSERS:
        raise ValueError("neither an object nor an array")
    try:
        end = json.JSONDecoder().raw_decode(text, start)[1]
        return strict_json(text[start:end]), end
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        mended, end = _mend(text, start)
        return strict_json(mended), end


def _mend(text: str, start: int) -> tuple[str, int]:
    parts: list[str] = []
    open_brackets: list[str] = []
    position = start
    while found := _TOKEN.match(text, position):
        token, position = found[0], found.end()
        if token == '"':
            string, position = _string(text, position)
            token = f'"{string}"'
        elif token in _CLOSERS:
            open_brackets.append(token)
        elif token in ("}", "]"):
            _drop_comma(parts)
            if _CLOSERS[open_brackets.pop()] != token:
                raise ValueError("brackets that don't match")
        parts.append(token)
        if not open_brackets:
            return "".join(parts), position
    shallow = not any(part in _CLOSERS for part in parts[1:])
    if len(open_brackets) > _MOST_MISSING or shallow or text.rstrip()[-1] not in '}]"':
        raise ValueError("cut off, not damaged")
    _drop_comma(parts)
    return "".join(parts + [_CLOSERS[one] for one in reversed(open_brackets)]), position


def _drop_comma(parts: list[str]) -> None:
    while parts and parts[-1].isspace():
        parts.pop()
    if parts and parts[-1] == ",":
        parts.pop()


def _string(text: str, position: int) -> tuple[str, int]:
    """The content of a string, repaired to strict JSON, and the position after its quote."""
    parts: list[str] = []
    while found := _IN_STRING.match(text, position):
        token, position = found[0], found.end()
        if token == '"':
            return "".join(parts), position
        if token == "\\":
            escape = text[position : position + 1]
            if escape and (escape in '"\\/bfnrt' or _CODE_POINT.match(text, position)):
                token, position = token + escape, position + 1
            else:
                token = "\\\\"
        else:
            token = re.sub(r"[\x00-\x1f]", _escape, token)
        parts.append(token)
    raise ValueError("a string without an end")


def _escape(found: re.Match[str]) -> str:
    return _ESCAPED.get(found[0], f"\\u{ord(found[0]):04x}")
