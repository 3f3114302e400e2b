"""What the next prompt begins with, under the real tokenizer and template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.text import ChatTemplate, Tokenizer, stable_prefix
from qwen3_mlx.text.stable_prefix import common_length

THOUGHT = {"role": "assistant", "content": "4", "reasoning_content": "two and two\n\nis 4"}
CALL = {
    "role": "assistant",
    "content": "",
    "reasoning_content": "I must look.",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
}
USER = {"role": "user", "content": "2+2?\n"}
TALKS: list[list[dict[str, Any]]] = [
    [{"role": "system", "content": "Be brief.\n\n"}],
    [USER, THOUGHT],
    [{"role": "system", "content": "S"}, USER, THOUGHT, USER, {**THOUGHT, "content": "\n5 🎉"}],
    [USER, {"role": "assistant", "content": ""}],
    [USER, {"role": "assistant", "content": "<think>\nraw\n</think>\n\nold style"}],
    [USER, CALL, {"role": "tool", "content": "7"}, THOUGHT],
]
NEXT = ["x", "\n\nx", " x", "1", "/no_think é", "🎉", "<|im_end|>", "a1"]


@pytest.fixture(scope="module")
def tokenizer(qwen3_files: Path) -> Tokenizer:
    return Tokenizer.from_dir(qwen3_files)


@pytest.fixture(scope="module")
def template(qwen3_files: Path) -> ChatTemplate:
    return ChatTemplate.from_dir(qwen3_files)


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("thinking", [None, False])
def test_every_next_prompt_begins_so_and_goes_on_with_its_message(
    tokenizer: Tokenizer, template: ChatTemplate, talk: list[dict[str, Any]], thinking: bool | None
) -> None:
    known = stable_prefix(template, tokenizer, talk)
    assert tokenizer.decode(known).endswith("<|im_end|>\n")
    for text in NEXT:
        message = {"role": "user", "content": text}
        prompt = tokenizer.encode(template.render([*talk, message], thinking=thinking))
        alone = tokenizer.encode(template.render([message], thinking=thinking))
        assert prompt == known + alone


def test_thoughts_stay_while_tools_work(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    known = stable_prefix(template, tokenizer, [USER, CALL])
    assert "I must look." in tokenizer.decode(known)
    for result in ("7", "\n", "{}"):
        messages = [USER, CALL, {"role": "tool", "content": result}]
        prompt = tokenizer.encode(template.render(messages))
        assert prompt[: len(known)] == known
    after = stable_prefix(
        template, tokenizer, [USER, CALL, {"role": "tool", "content": "7"}, THOUGHT]
    )
    assert "I must look." not in tokenizer.decode(after)


def test_common_length() -> None:
    assert [common_length([1, 2], other) for other in ([], [1], [1, 3], [1, 2, 3])] == [0, 1, 1, 2]
