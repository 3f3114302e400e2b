"""An automatic budget in turns of the bundled model, and where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx import load
from qwen3_mlx.chat import probing
from qwen3_mlx.chat.request import prepare
from qwen3_mlx.engine.control import Control
from qwen3_mlx.errors import ConfigError, OptionError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import GenerationOptions
from tests import tiny

SUM = "Compute 70 * 12 + (8 - 8)"
OFTEN = {"floor": 8, "interval": 16, "certainty": 0.9}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]
USER: list[dict[str, Any]] = [{"role": "user", "content": SUM}]


@pytest.fixture(scope="module")
def demo() -> Qwen3:
    return load("demo")


def test_a_thought_ends_once_the_answer_is_sure(demo: Qwen3) -> None:
    full = demo.generate(SUM, temperature=0)
    sure = demo.generate(SUM, temperature=0, thinking_budget=OFTEN)
    assert "840" in sure.answer and sure.stats.thinking_cut == "sure"
    assert full.thinking.startswith(sure.thinking[:20])
    assert 8 <= sure.stats.thinking_tokens < full.stats.thinking_tokens
    stats = sure.stats
    assert stats.probes >= 2 and stats.probe_tokens > 30 and stats.probe_seconds > 0
    assert (full.stats.probes, full.stats.probe_tokens, full.stats.probe_seconds) == (0, 0, 0)
    together = demo.generate_many([SUM, SUM], temperature=0, thinking_budget=OFTEN)
    assert [getattr(one, "answer", one) for one in together] == [sure.answer] * 2


def test_answering_first(demo: Qwen3) -> None:
    easy = demo.generate("53 + 35", temperature=0, thinking_budget={"first": True})
    assert easy.stats.thinking_cut == "sure" and not easy.stats.thinking_tokens
    assert easy.thinking == "" and "88" in easy.answer
    hard = demo.generate("497 * 76", temperature=0, thinking_budget={"first": True})
    assert hard.stats.thinking_tokens and "37772" in hard.answer


def schedule(model: Any, messages: Any = USER, **options: Any) -> Any:
    tools = options.pop("tools", None)
    asked = GenerationOptions(**({"thinking_budget": "auto"} | options))
    return prepare(model.runtime, messages, asked, tools).sequence(Control()).probing


@pytest.mark.parametrize(
    "options",
    [{"thinking_budget": 9}, {"thinking_budget": None}, {"thinking_budget": "high"},
     {"thinking": False}, {"schema": True}, {"regex": "a"}],
)  # fmt: skip
def test_where_nothing_is_probed(demo: Qwen3, options: dict[str, Any]) -> None:
    assert schedule(demo, **options) is None


def test_the_cap_and_the_probes_span_a_user_turn(demo: Qwen3) -> None:
    thought = "one two three four"
    step = {"role": "assistant", "content": "", "reasoning_content": thought,
            "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}  # fmt: skip
    messages = [*USER, step, {"role": "tool", "content": "5"}]
    spent = schedule(demo, messages, tools=TOOLS).spent
    assert spent > 4 and schedule(demo, tools=TOOLS).spent == 0
    asked = GenerationOptions(thinking_budget={"cap": 100, "first": True})
    request = prepare(demo.runtime, messages, asked, TOOLS)
    assert request.budget.limit == 100 - spent
    assert not schedule(demo, messages, thinking_budget=asked.budget, tools=TOOLS).direct


def test_clear_answers_to_what_can_t_be(demo: Qwen3) -> None:
    always = tiny.runtime(opened=True)
    never = replace(demo.runtime, family="instruct")
    context = demo.config.context
    for runtime, budget, said in [
        (never, "auto", "this model never thinks"),
        (always, {"first": True}, "always thinks: it can't answer first"),
        (demo.runtime, {"cap": context}, f"fewer than {context:,}, the context"),
        (demo.runtime, "medium", ""),
    ]:
        asked = GenerationOptions(thinking_budget=budget)
        if said:
            with pytest.raises(OptionError, match=said):
                prepare(runtime, USER, asked)
        else:
            limit = prepare(runtime, USER, asked).budget.limit
            assert limit is not None and limit < context


def test_the_numbers_beside_a_model(demo: Qwen3, tmp_path: Path) -> None:
    runtime = replace(demo.runtime, path=tmp_path)
    assert probing.calibration(runtime) == probing.Calibration()
    (tmp_path / probing.FILE).write_text('{"floor": 8, "certainty": 0.5, "curve": []}')
    assert probing.calibration(runtime) == probing.Calibration(floor=8, certainty=0.5)
    (tmp_path / probing.FILE).write_text('{"floor": "8"}')
    with pytest.raises(ConfigError, match="floor"):
        probing.calibration(runtime)


def rule(runtime: Any, budget: Any) -> dict[str, Any]:
    """The numbers by which a turn of `runtime` is probed."""
    request = prepare(runtime, USER, GenerationOptions(thinking_budget=budget))
    probes = request.sequence(Control()).probing
    assert probes is not None
    found = {name: getattr(probes.rule, name) for name in NUMBERS}
    assert probes.rule.slot_ids == tuple(runtime.tokenizer.encode("The answer is"))
    assert probes.rule.direct_ids == tuple(runtime.tokenizer.encode("<think>\n\n</think>\n\n"))
    return found


NUMBERS = ("floor", "interval", "certainty", "agreeing", "direct_certainty")
DEFAULTS = dict(zip(NUMBERS, (128, 256, 0.95, 2, None), strict=True))


def test_the_numbers_of_a_model_that_nobody_has_calibrated(tmp_path: Path) -> None:
    """Whether it is on a disk or not; the options come before them, none of which may be lost."""
    for runtime in (tiny.runtime(), replace(tiny.runtime(), path=tmp_path)):
        assert rule(runtime, "auto") == DEFAULTS
        assert rule(runtime, {"first": True}) == DEFAULTS | {"direct_certainty": 0.95}
        own = {"floor": 0, "interval": 1, "certainty": 0.5}
        assert rule(runtime, own) == DEFAULTS | own
        sure = own | {"direct_certainty": 0.5}
        assert rule(runtime, own | {"first": True}) == DEFAULTS | sure
    assert rule(tiny.runtime(opened=True), "auto") == DEFAULTS, "one that always thinks"


def test_a_model_s_own_numbers_come_before_those(tmp_path: Path) -> None:
    numbers = dict(zip(NUMBERS, (0, 5, 0.6, 1, 0.7), strict=True))
    (tmp_path / probing.FILE).write_text(json.dumps(numbers))
    runtime = replace(tiny.runtime(), path=tmp_path)
    assert rule(runtime, "auto") == numbers | {"direct_certainty": None}
    assert rule(runtime, {"first": True}) == numbers
    assert rule(runtime, {"first": True, "floor": 9, "certainty": 1.0}) == (
        numbers | {"floor": 9, "certainty": 1.0, "direct_certainty": 1.0}
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("floor", -1), ("floor", 8.0), ("floor", True), ("interval", "9"), ("certainty", -0.5),
        ("certainty", 1), ("slot", ""), ("slot", 5), ("agreeing", None),
    ],
)  # fmt: skip
def test_a_calibration_s_wrong_values_are_named(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / probing.FILE).write_text(json.dumps({name: value}))
    with pytest.raises(ConfigError, match=f"{name}(.|\n)*{'' if value == '' else value}"):
        probing.calibration(replace(tiny.runtime(), path=tmp_path))


@pytest.mark.parametrize(("name", "value"), [("floor", 0), ("certainty", 0.0), ("slot", "So:")])
def test_a_calibration_s_least_values_are_taken(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / probing.FILE).write_text(json.dumps({name: value}))
    found = probing.calibration(replace(tiny.runtime(), path=tmp_path))
    assert found == replace(probing.Calibration(), **{name: value})
