"""What is left of a long prompt: the time of each chunk, and of those to come."""

from __future__ import annotations

import pytest

from qwen3_mlx.cli.terminal.eta import Eta


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def said(costs: list[tuple[int, float]], total: int) -> list[str]:
    """What an `Eta` says after each (units, seconds)."""
    clock, done = Clock(), 0
    eta, out = Eta(clock), []
    for units, seconds in costs:
        clock.now += seconds
        done += units
        out.append(eta(done, total))
    return out


def test_at_one_speed() -> None:
    assert said([(100, 5.0)] * 4, 400) == [", 15 s left", ", 10 s left", ", 5 s left", ""]


def test_little_is_not_worth_a_word() -> None:
    assert said([(100, 0.5)] * 4, 400) == [""] * 4


@pytest.mark.parametrize(("left", "words"), [(89, "89 s"), (100, "2 min"), (7200, "2.0 h")])
def test_words(left: float, words: str) -> None:
    assert said([(100, left)], 200) == [f", {words} left"]


def test_attention_grows_with_what_it_looks_back_on() -> None:
    """Token p costs 1 + p / 1000 ms: of 16,000 the last three quarters take 120 + 12 s."""
    chunks = [(1000, (1000 + (a + 500)) / 1000) for a in range(0, 4000, 1000)]
    rest = sum((1000 + (a + 500)) / 1000 for a in range(4000, 16_000, 1000))
    assert said(chunks, 16_000)[-1] == f", {round(rest / 60)} min left"
    assert rest == 132
    # the mean of the first four would have said 12 s
    assert said(chunks, 8_000)[-1] == ", 28 s left"


def test_what_gets_faster_is_not_thought_to_end_before_it_began() -> None:
    assert said([(100, 9.0), (100, 3.0)], 1000)[-1] == ", 48 s left"


def test_nothing_done_yet_says_nothing() -> None:
    assert said([(0, 5.0)], 100) == [""]
