"""What is set on a session, or given in a model's place: checked, and refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx import Done, GenerationOptions
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.errors import MessageError, OptionError
from qwen3_mlx.model import Qwen3
from tests import tiny


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8))


def test_options_of_a_wrong_kind_are_refused_where_they_are_set(model: Qwen3) -> None:
    chat = model.session(max_tokens=3)
    for wrong in ({"max_tokens": 5}, "max_tokens=5", 5):
        with pytest.raises(OptionError, match=r"options: got .*, expected GenerationOptions"):
            chat.options = wrong  # type: ignore[assignment]
    assert chat.options.max_tokens == 3
    chat.options = None
    assert chat.options == GenerationOptions()


def test_tools_that_are_set_later_are_checked_by_the_next_turn(model: Qwen3) -> None:
    def spell(word: str) -> None: ...

    chat = model.session(max_tokens=3, thinking=False)
    chat.tools = [spell]  # type: ignore[list-item]
    with pytest.raises(MessageError, match=r"tools\[0\]: got function .*\n.*Agent\(model"):
        chat.send("Hi")
    assert chat.messages == []
    chat.tools = ({"name": "spell"},)
    assert isinstance([*chat.send("Hi")][-1], Done)


@pytest.mark.parametrize("given", ["demo", 5, ""])
def test_a_name_is_no_model_to_load_a_conversation_with(tmp_path: Path, given: Any) -> None:
    with pytest.raises(OptionError, match=r"model: got .*, expected a loaded model"):
        ChatSession.load(tmp_path / "talk.json", given)


def test_an_idle_model_knows_its_interrupts_too(model: Qwen3) -> None:
    with pytest.raises(OptionError, match="interrupt: got 'pause'"):
        Qwen3(model.runtime).interrupt("pause")  # type: ignore[arg-type]
