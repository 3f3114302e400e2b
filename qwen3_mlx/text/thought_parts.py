"""Thoughts among the parts of an assistant's content, where Anthropic and Mistral have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = ("thinking", "reasoning", "redacted_thinking")


def with_thought_apart(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """`message` with its thoughts in ``reasoning_content``, unless that is there already.

    A client that changes its model in the midst of a conversation sends what the other one wrote.
    A redacted thought has no words.
    """
    content = message.get("content")
    if not isinstance(content, list | tuple) or not any(map(_is_thought, content)):
        return message
    thought = "\n".join(filter(None, (_text(part) for part in content if _is_thought(part))))
    rest = [part for part in content if not _is_thought(part)]
    names = ("reasoning_content", "thinking", "reasoning")
    said = any(message.get(name) is not None for name in names)
    more = {} if said or not thought else {"reasoning_content": thought}
    return {**message, "content": rest, **more}


def _is_thought(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _KINDS


def _text(part: Mapping[str, Any]) -> str:
    """The words of a part: a text, or Mistral's list of texts."""
    for name in ("thinking", "reasoning", "text"):
        value = part.get(name)
        if isinstance(value, list):
            texts = (one.get("text") for one in value if isinstance(one, Mapping))
            value = "\n".join(text for text in texts if isinstance(text, str))
        if isinstance(value, str) and value:
            return value
    return ""
