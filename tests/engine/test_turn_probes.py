"""When a turn asks for a probe, and what it does with the answer; without any network."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.engine.decision import Ask, End, GoOn, Inject
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.short_answer import ShortAnswer
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests.engine.test_sequence import BLANK, CLOSE, EOS, MARKERS, OPEN, READING, STOP, TOOL

SLOT, EMPTY = (22, 1), (14, 2)
SURE, UNSURE = ShortAnswer("12", 0.95), ShortAnswer("12", 0.5)


def probed(
    *, first: bool = False, agreeing: int = 1, max_tokens: int = 99, spent: int = 0, **state: Any
) -> TurnSequence:
    """A turn that is probed after three tokens of thinking, at the end of a line."""
    direct = 0.9 if first else None
    rule = ProbeRule(3, 4, 0.9, SLOT, agreeing, direct_certainty=direct, direct_ids=EMPTY)
    budget = ThinkingBudget(None, STOP)
    schedule = ProbeSchedule(rule, spent)
    return TurnSequence(READING, budget, max_tokens, probing=schedule, **state)


def test_a_turn_may_begin_with_a_probe() -> None:
    assert probed(first=True).begin() == Ask(EMPTY, SLOT, TOOL)
    for other in (
        probed(), probed(first=True, inside=True), probed(first=True, spent=1),
        TurnSequence(MARKERS, ThinkingBudget(None, STOP), 99),
    ):  # fmt: skip
        assert other.begin() == GoOn()


def test_a_sure_answer_at_the_beginning_takes_the_thought_s_place() -> None:
    turn = probed(first=True)
    turn.begin()
    assert turn.hear(SURE, 7, 0.5) == Inject(EMPTY, forbidden=OPEN, probed=True)
    assert (turn.used, turn.cut, turn.closed, turn.thinking_tokens) == (2, "sure", True, 0)
    for token in (4, OPEN, 4):
        turn.take(token)
    assert (turn.thinking_tokens, turn.answer_tokens) == (0, 3), "markers are text by now"


@pytest.mark.parametrize("found", [UNSURE, None])
def test_an_unsure_answer_at_the_beginning_changes_nothing(found: ShortAnswer | None) -> None:
    turn = probed(first=True)
    turn.begin()
    assert turn.hear(found, 7, 0.5) == GoOn()
    assert (turn.used, turn.cut, turn.closed) == (0, "", False)
    assert turn.begin() == GoOn(), "there is one such probe"
    turn.take(OPEN)
    assert turn.thinking_tokens == 1


def test_a_sure_answer_in_a_thought_ends_it() -> None:
    turn = probed()
    for token in (OPEN, 1):
        assert turn.take(token) == GoOn()
    assert turn.take(BLANK) == Ask(STOP, SLOT, TOOL)
    assert turn.hear(UNSURE, 7, 0.5) == GoOn()
    for token in (1, 1, 1, 1, 1):
        assert turn.take(token) == GoOn()
    assert turn.take(BLANK) == Ask(STOP, SLOT, TOOL)
    assert turn.hear(SURE, 5, 0.25) == Inject(STOP, forbidden=OPEN, probed=True)
    assert (turn.used, turn.cut, turn.thinking_tokens) == (9 + len(STOP), "sure", 9)
    schedule = turn.probing
    assert schedule is not None
    assert (schedule.probes, schedule.tokens, schedule.seconds) == (2, 12, 0.75)
    turn.take(4)
    assert turn.take(BLANK) == GoOn() and turn.answer_tokens == 2
    assert turn.take(EOS) == End("stop")


def test_nothing_is_probed_outside_of_thoughts_nor_behind_a_cut() -> None:
    turn = probed()
    assert {str(turn.take(token)) for token in (4, 4, 4, BLANK, 4, BLANK)} == {str(GoOn())}
    turn = probed()
    for token in (OPEN, 1, BLANK):
        turn.take(token)
    turn.control.interrupt("answer")
    assert turn.take(1) == Inject(STOP, forbidden=OPEN) and turn.cut == "user"
    for token in (OPEN, 1, 1, 1, 1):
        turn.take(token)
    assert turn.take(BLANK) == GoOn()
    turn = probed()
    for token in (OPEN, 1, CLOSE, 4):
        turn.take(token)
    assert turn.take(BLANK) == GoOn()


@pytest.mark.parametrize(("beyond", "asks"), [(0, False), (1, True)])
def test_a_probe_is_worth_it_where_an_answer_still_fits(beyond: int, asks: bool) -> None:
    turn = probed(max_tokens=3 + len(STOP) + beyond)
    turn.take(OPEN)
    turn.take(1)
    assert turn.take(BLANK) == (Ask(STOP, SLOT, TOOL) if asks else GoOn())
