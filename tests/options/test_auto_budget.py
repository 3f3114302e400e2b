"""What an automatic budget may be called, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.chat.plain import explicit
from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.options.auto_budget import AutoBudget


@pytest.mark.parametrize(
    ("given", "want", "shown"),
    [
        ("auto", AutoBudget(), "auto"), ("auto:2048", AutoBudget(cap=2048), "auto:2,048"),
        ("AUTO:2_048", AutoBudget(cap=2048), "auto:2,048"), ("512", 512, "512"), (512, 512, "512"),
        ("high", None, "None"), ("low", AutoBudget(1024, certainty=0.8, level="low"), "low"),
        ({"cap": 9, "first": True}, AutoBudget(cap=9, first=True), "auto:9, answering first"),
        ({}, AutoBudget(), "auto"), (0, 0, "0"), (None, None, "None"),
    ],
)  # fmt: skip
def test_what_it_may_be(given: Any, want: Any, shown: str) -> None:
    options = GenerationOptions(thinking_budget=given)
    assert options.budget == want and str(options.budget) == shown
    assert GenerationOptions(**explicit(options)) == options


@pytest.mark.parametrize(
    "given",
    [
        "", "automatic", "auto:", "auto:x", "auto:0", "auto:-1", "9" * 5000, "auto:" + "9" * 5000,
        "1.5", "-1", -1, 1.5, True, [9],
        {"cap": 0}, {"cap": True}, {"cap": 1.5}, {"floor": -1}, {"interval": 0}, {"certainty": 0},
        {"certainty": 1.1}, {"certainty": "0.9"}, {"first": 1}, {"level": "high"}, {"most": 9},
    ],
)  # fmt: skip
def test_what_it_may_not_be(given: Any) -> None:
    with pytest.raises(OptionError) as error:
        GenerationOptions(thinking_budget=given)
    assert "thinking_budget" in str(error.value) and "expected" in str(error.value)
