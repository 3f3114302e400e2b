"""Thoughts among an assistant's parts, as other APIs write them."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.errors import MessageError
from qwen3_mlx.text.messages import normalise

SAID = {"type": "text", "text": "Yes."}


@pytest.mark.parametrize(
    ("part", "thought"),
    [
        ({"type": "thinking", "thinking": "Hm.", "signature": "x"}, "Hm."),
        ({"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}, {"type": "x"}]}, "Hm."),
        ({"type": "reasoning", "reasoning": "Hm."}, "Hm."),
        ({"type": "reasoning", "text": "Hm."}, "Hm."),
        ({"type": "redacted_thinking", "data": "x"}, None),
        ({"type": "thinking", "thinking": None}, None),
    ],
    ids=str,
)
def test_a_part_that_is_a_thought(part: dict[str, Any], thought: str | None) -> None:
    given = {"role": "assistant", "content": [part, SAID]}
    (found,) = normalise([given])
    assert found["content"] == "Yes." and found.get("reasoning_content") == thought
    assert given["content"] == [part, SAID], "the caller's own is left alone"


def test_what_stands_apart_already_is_kept() -> None:
    part = {"type": "thinking", "thinking": "Hm."}
    for name in ("reasoning_content", "reasoning", "thinking"):
        (found,) = normalise([{"role": "assistant", "content": [part, SAID], name: "So."}])
        assert found["reasoning_content"] == "So."


def test_nobody_else_thinks() -> None:
    for role in ("user", "system"):
        with pytest.raises(MessageError):
            normalise([{"role": role, "content": [{"type": "thinking", "thinking": "x"}]}])
