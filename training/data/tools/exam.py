"""Held-out questions with tools, in the form that `benchmarks.calls` scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from benchmarks.call_check import ABSENT, CATEGORIES, Expected, Question, Step, Turn
from training.data.calendar import MONTHS
from training.data.tools.kinds import Tool
from training.data.tools.skills import CALCULATOR
from training.data.tools.turns import (
    Call,
    ToolTurn,
    in_a_row,
    none_fits,
    parallel,
    single,
    toolbox,
)


def questions(category: str, count: int, seed: str = "held out") -> list[Question]:
    """`count` questions of one category, all different, from the held-out side of the split."""
    assert category in CATEGORIES
    rng = Random(f"{seed} {category}")
    found: dict[str, Question] = {}
    while len(found) < count:
        tools, turns = draw(rng, category)
        asked = "\n".join(turn.question for turn in turns)
        found.setdefault(asked, _question(f"{category}-{len(found)}", category, tools, turns))
    return list(found.values())


def draw(rng: Random, category: str) -> tuple[list[Tool], list[ToolTurn]]:
    """The tools and turns of one question."""
    tools = toolbox(rng, 1 if category == "simple" else rng.randint(2, 4))
    if category in ("simple", "multiple"):
        return tools, [single(rng, rng.choice(tools), True, 0)]
    if category == "parallel":
        return tools, [parallel(rng, tools, True)]
    if category == "irrelevance":
        return tools, [none_fits(rng, tools, True)]
    return tools, [_turn(rng, tools) for _ in range(rng.randint(2, 3))]


def _turn(rng: Random, tools: Sequence[Tool]) -> ToolTurn:
    draw = rng.random()
    if draw < 0.2:
        return none_fits(rng, tools, True)
    if draw < 0.5 and any(tool.kind is CALCULATOR for tool in tools):
        return in_a_row(rng, tools, True)
    if draw < 0.6:
        return parallel(rng, tools, True)
    return single(rng, rng.choice(tools), True, 0)


def _question(
    name: str, category: str, tools: Sequence[Tool], turns: Sequence[ToolTurn]
) -> Question:
    return Question(
        name,
        category,
        [tool.offer for tool in tools],
        [Turn(turn.question, _steps(turn)) for turn in turns],
    )


def _steps(turn: ToolTurn) -> list[Step]:
    return [
        Step([expected(call) for call in step.calls], [call.result for call in step.calls])
        for step in turn.steps
        if step.calls
    ]


def expected(call: Call) -> Expected:
    """The values that are right, an optional parameter's default and its absence among them."""
    arguments: dict[str, list[Any]] = {}
    for parameter in call.tool.kind.parameters:
        written = call.values.get(parameter.name)
        default = [] if parameter.default is None else [parameter.default]
        allowed = [*default, ABSENT] if written is None else _ways(json.loads(written))
        if written is not None and default and allowed[:1] == default:
            allowed.append(ABSENT)
        arguments[call.tool.shown[parameter.name]] = allowed
    return Expected(call.tool.name, arguments)


def _ways(value: Any) -> list[Any]:
    """`value`, and a date also as ``3 March``."""
    month, _, day = str(value).partition(" ")
    return [value, f"{day} {month}"] if month in MONTHS else [value]
