"""Replaces lone surrogates, which UTF-8 can't encode and no tokenizer reads.

A server in JavaScript that cuts a text in the middle of an emoji sends one; a Python function that
reads a file name that isn't UTF-8 returns one.
"""

from __future__ import annotations

from typing import Any


def whole_text(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate; two halves that stand together are joined."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole_json(value: Any) -> Any:
    """`value`, of JSON's types, with `whole_text` of every text and key; changed in place."""
    holder = [value]
    left: list[Any] = [holder]
    while left:  # no recursion: a server's message may have more levels than Python's stack
        one = left.pop()
        if isinstance(one, dict):
            pairs = [(_whole(key), _whole(item)) for key, item in one.items()]
            one.clear()
            one.update(pairs)
        else:
            one[:] = map(_whole, one)
        items = one.values() if isinstance(one, dict) else one
        left += [item for item in items if isinstance(item, dict | list)]
    return holder[0]


def _whole(value: Any) -> Any:
    return whole_text(value) if isinstance(value, str) else value
