"""Continuing a conversation's last message: in which mode, and behind which tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.errors import OptionError
from qwen3_mlx.text import Mode

NOTHING = "nothing to continue"
"""What is said of a last message that can't go on."""


def continued(conversation: list[dict[str, Any]], mode: Mode) -> Mode:
    """`mode` for continuing the last message: inside its thought if it has no content yet."""
    last = conversation[-1]
    expected = "an assistant's message with text, and without tool calls"
    if last["role"] != "assistant" or last.get("tool_calls"):
        got = "tool calls" if last["role"] == "assistant" else f"a message of role {last['role']!r}"
        raise OptionError(NOTHING, got=got, expected=expected)
    if not last["content"] and not last.get("reasoning_content"):
        raise OptionError(NOTHING, got="an empty message", expected=expected)
    return replace(mode, starts_inside=not last["content"])


def without_end(runtime: Runtime, prompt: list[int], mode: Mode) -> list[int]:
    """`prompt` without the end markers of the last message and of its open thought."""
    marker = runtime.tokenizer.think_close if mode.starts_inside else runtime.tokenizer.im_end
    if marker is None or marker not in prompt:
        hint = "put the beginning into words: ask the model to go on from it"
        raise OptionError("this model's template has no end that could be cut off", hint=hint)
    begun = prompt[: len(prompt) - 1 - prompt[::-1].index(marker)]
    last = runtime.tokenizer.id_to_bytes(begun[-1])
    if mode.starts_inside and last.endswith(b"\n"):  # added by the template before </think>
        begun[-1:] = runtime.tokenizer.encode(last[:-1].decode("utf-8", "replace"))
    return begun
