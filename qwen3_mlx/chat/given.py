"""Prompts, messages and lists of things as callers give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwen3_mlx.errors import MessageError, OptionError, shown
from qwen3_mlx.text.messages import MessageLike


def listed(what: str, values: Any) -> list[Any]:
    """The items of `values`, which may be of any iterable, such as a generator.

    Raises `OptionError`, naming `what`, for one item in place of many: a str, bytes, a dict.
    """
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | bytearray | Mapping):
        got = f"{type(values).__name__} {shown(values, longest=60)}"
        hint = f"[{what.removesuffix('s')}] is a list of one"
        raise OptionError(what, got=got, expected="a list of them", hint=hint)
    try:
        return list(values)
    except TypeError:  # numpy's array of no dimension is iterable in name only
        raise OptionError(what, got=shown(values), expected="a list of them") from None


def as_messages(prompt: str | Sequence[MessageLike]) -> Sequence[MessageLike]:
    """`prompt` as a list of messages. Raises `OptionError` for a blank text."""
    if not isinstance(prompt, str):
        others = isinstance(prompt, Sequence) and not isinstance(prompt, bytes | list | tuple)
        return list(prompt) if others else prompt
    if not prompt.strip():
        raise OptionError("the prompt is empty", hint="say what the model is to do")
    return [{"role": "user", "content": prompt}]


def new_messages(content: str | MessageLike | Sequence[MessageLike]) -> list[dict[str, Any]]:
    """What a session is sent, as messages. Raises `OptionError` for a blank text.

    `MessageError` if it is neither a text nor made of dicts.
    """
    if isinstance(content, str):
        if not content.strip():
            raise OptionError("the message is empty", hint="say something")
        return [{"role": "user", "content": content}]
    given = [content] if isinstance(content, Mapping) else content
    if not isinstance(given, Sequence) or not all(isinstance(one, Mapping) for one in given):
        expected = "a text, a message, or a list of messages (dicts with role and content)"
        raise MessageError("the message", got=shown(content), expected=expected)
    return [dict(message) for message in given]
