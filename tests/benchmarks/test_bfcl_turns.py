"""BFCL's multi-turn questions: on a service of our own, and on the wheel's where one has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bfcl, bfcl_turns, calls
from benchmarks.bfcl_turns import MORE_TOOLS, ServiceQuestion, Services, ServiceTurn, judge, parsed
from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.tools.test_loop import call_text, say_in_turn

OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 150, "thinking": False}


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=16384))


class Lamp:
    """A service: a lamp that counts."""

    def __init__(self) -> None:
        self.level, self._secret = 0, object()

    def turn(self, level: int) -> dict[str, int]:
        self.level = level
        return {"level": level}

    def look(self) -> str:
        return f"It is at {self.level}."

    def _hidden(self) -> str:
        return "hidden"


def offer(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}


TURN, LOOK = offer("turn", level={"type": "integer"}), offer("look")
QUESTION = ServiceQuestion(
    "lamp",
    [TURN],
    [
        ServiceTurn("Turn it to 3.", [parsed("turn(level=3)")]),
        ServiceTurn("Look at it.", []),
        ServiceTurn(MORE_TOOLS, [parsed("look()")], [LOOK]),
    ],
    lambda: {"Lamp": Lamp()},
)
TO_3, SEE = call_text("turn", level=3), call_text("look")
RIGHT = [TO_3, "Done.", "I can't.", SEE, "It is at 3."]


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (RIGHT, ""),
        ([call_text("turn", level=9), TO_3, "Done.", *RIGHT[2:]], ""),  # a detour
        ([TO_3, "Done.", call_text("turn", level=4), TO_3, "I can't.", *RIGHT[3:]], ""),
        ([call_text("turn", level=4), "Done."], "turn 1: level of Lamp is another"),
        ([call_text("turn", depth=4), "Done."], "turn 1: level of Lamp is another"),
        (["Done."], "turn 1: no call"),
        ([TO_3, "Done.", "I can't.", "Still not."], "turn 3: no call"),
        ([TO_3, "Done.", "I can't.", TO_3, "Done."], "turn 3: never saw 'It is at 3.'"),
        ([TO_3, "Done.", call_text("turn", level=4), "So.", SEE, "It is at 4."], "turn 3: level"),
        ([TO_3], "turn 1: it made the same call three times"),
        ([call_text("turn", level=n) for n in range(9)], "turn 1: it took more than 4 steps"),
    ],
)
def test_a_question_is_right_by_its_states_and_results(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, said: list[str], wrong: str
) -> None:
    monkeypatch.setattr(bfcl_turns, "STEPS", 4)
    prompts = say_in_turn(monkeypatch, model, said)
    sitting = calls.tried(model, QUESTION, OPTIONS)
    assert sitting.wrong.startswith(wrong) and bool(sitting.wrong) == bool(wrong)
    if said is RIGHT:
        assert ['"look"' in prompt for prompt in prompts] == [False] * 3 + [True] * 2


def test_services_are_scored_beside_other_questions(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, RIGHT)
    ways = calls.runs([], ["off"])
    found = calls.score(model, [QUESTION], ways, OPTIONS, [0], 1, lambda _: None)
    row = {"multi_turn": 100.0, "calls": 100.0}
    assert found == {"scores": {"not thinking": row}, "wrong": []}


def test_a_call_runs_a_public_method_or_says_why_not() -> None:
    services = Services({"Lamp": Lamp()})
    assert services.run("turn", {"level": 2}).text == '{"level": 2}'
    assert services.run("turn", {}, [5]).text == '{"level": 5}'
    for name in ("_hidden", "__init__", "level", "none"):
        assert "is not defined" in services.run(name, {}).text
    assert services.run("turn", {"x": 1}).text.startswith("Error during execution: ")
    assert services.states() == {"Lamp": {"level": 5}}


def test_right_calls_are_literals() -> None:
    assert parsed("f(1, [2], a='x(1)', b={'c': None})") == (
        "f",
        {"": [1, [2]], "a": "x(1)", "b": {"c": None}},
    )
    for text in ("f(g(1))", "a.f()", "f(open)"):
        with pytest.raises((AssertionError, ValueError)):
            parsed(text)


@pytest.fixture(scope="module")
def wheel() -> Path:
    if (folder := bfcl.data_folder()) is None:
        pytest.skip("not installed: pip install --no-deps bfcl-eval mpmath")
    pytest.importorskip("mpmath", reason="not installed: pip install mpmath")
    return folder


def test_the_wheels_own_right_calls_are_right_and_none_is_wrong(wheel: Path) -> None:
    asked = bfcl_turns.questions(wheel, 40)
    assert len(asked) == 40
    for question in asked:
        ours, right = Services(question.begin()), Services(question.begin())
        for turn in question.turns:
            if turn.right:
                assert judge(turn, Services(question.begin()), ours, len(ours.results)) == "no call"
            made = len(ours.results)
            for name, arguments in turn.right:
                named = {key: value for key, value in arguments.items() if key}
                ours.run(name, named, arguments.get("", ()))
            assert judge(turn, right, ours, made) == "", question.id


def test_a_question_of_the_wheel_is_asked_through_the_loop(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    question = bfcl_turns.questions(wheel, 1)[0]
    said = []
    for turn in question.turns:
        for name, arguments in turn.right:
            named = {"file_name": arguments[""][0]} if "" in arguments else arguments
            said.append(call_text(name, **named))  # of this question sort() alone has no names
        said.append("Done.")
    used = {name for turn in question.turns for name, _ in turn.right}
    tools = [offer(name) for name in sorted(used)]  # their descriptions are long
    say_in_turn(monkeypatch, model, said)
    assert calls.tried(model, replace(question, tools=tools), OPTIONS).wrong == ""
