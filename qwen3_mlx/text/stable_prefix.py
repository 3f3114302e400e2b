"""Finds the tokens of the next prompt that the next message cannot change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.text.template import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer

# Two messages that nothing in a template or a tokenizer would treat alike.
_PROBES = ("a", "1")


def stable_prefix(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[MessageLike],
    tools: Sequence[Mapping[str, Any]] | None = None,
    special_tokens_in_text: bool = False,
) -> list[int]:
    """The ids that the prompt will begin with, whatever is said after `messages`.

    Found by saying two different things and comparing the ids, not the texts: whatever the
    template does to the history of a next turn (Qwen3's drops the thoughts of answered turns and
    keeps those of a turn whose tools are still at work) and however the tokenizer joins what it
    finds there, it does here. The prefix ends before the ``<|im_start|>`` of the new message,
    where no text can change the tokens on the left, nor the switch of thinking, which Qwen3's
    templates read behind it. `special_tokens_in_text` is `ChatTemplate.encode`'s. Raises as that.
    """
    waiting = bool(messages) and bool(messages[-1].get("tool_calls"))
    role = "tool" if waiting else "user"
    first, second = (
        template.encode(
            [*messages, {"role": role, "content": probe}],
            tokenizer,
            tools,
            special_tokens_in_text=special_tokens_in_text,
        )
        for probe in _PROBES
    )
    known = first[: common_length(first, second)]
    start = tokenizer.im_start
    while known and start is not None and known.pop() != start:
        pass
    return known


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids the two begin with in common."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
