"""Finds the prompt's prefix that no next message can change, so that its KV cache can be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.text.template import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer

# Two messages that differ in their first token, and that no template treats alike.
_PROBES = ("a", "1")


def stable_prefix(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[MessageLike],
    tools: Sequence[Mapping[str, Any]] | None = None,
    special_tokens_in_text: bool = False,
) -> list[int]:
    """The ids with which the next prompt begins, whatever message follows `messages`.

    Renders two different next messages and compares the ids, not the texts. This reproduces what
    the template does to the history (Qwen3's drops the thinking of answered turns and keeps that
    of a turn whose tool calls are pending) and how the tokenizer merges text there. The prefix
    ends before the ``<|im_start|>`` of the new message: no later text can change the tokens before
    it, nor can the thinking switch, which Qwen3's templates use after it. `special_tokens_in_text`
    and the errors raised are those of `ChatTemplate.encode`.
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
    """The length of the longest common prefix."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
