"""What the tool loop computes: ten steps compute each token of the conversation once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import qwen3_mlx
from benchmarks import tool_steps
from qwen3_mlx.model import Qwen3
from qwen3_mlx.text import ChatTemplate
from qwen3_mlx.tools.agent import tool_of
from tests.cli import tools_given


def test_ten_steps_compute_each_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tools_given.model().runtime
    template = ChatTemplate.from_dir(Path(qwen3_mlx.__file__).parent / "demo")
    model = Qwen3(replace(tiny, template=template))  # the tests' own writes calls in another form

    def echo(n: int) -> str:
        "Says it."
        return str(n)

    found = tool_steps.turn(
        model, tool_of(echo), lambda said: tools_given.say_in_turn(monkeypatch, model, said)
    )
    assert found["computed"] == found["held"] > 500 and len(found["ms"]) == 9
