"""How far something is: the percentage, and the time left as the parts so far suggest it."""

from __future__ import annotations

import pytest

from qwen3_mlx.cli.terminal.progress import Eta, ProgressLine
from tests.cli.terminal.test_render import terminal_screen


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


def test_what_an_earlier_run_had_done_says_nothing_about_this_ones_speed() -> None:
    clock = Clock()
    eta = Eta(clock, start=50)
    clock.now += 5
    assert eta(75, 100) == ", 5 s left"


def test_a_hundred_thousand_parts_cost_no_more_each_than_the_first() -> None:
    clock = Clock()
    eta = Eta(clock)
    for done in range(1, 100_001):
        clock.now += 0.001
        text = eta(done * 10**6, 2 * 10**11)
    assert text == ", 2 min left"


def test_stages_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = terminal_screen(monkeypatch), Clock()
    line = ProgressLine(screen, delay=0, clock=clock)
    for stage, done, total, detail, seconds in (
        ("convert", 0, 1200, ", 0 of 1.2 kB", 0.0),
        ("convert", 600, 1200, ", 0.6 of 1.2 kB", 10.0),
        ("upload x", 0, 0, "", 5.0),
    ):
        clock.now += seconds
        line.stage(stage, done, total, detail)
    texts = [text for text in screen.err.getvalue().split("\r\x1b[K\x1b[2m") if text]
    assert [text.removesuffix("\x1b[0m") for text in texts] == [
        "convert: 0 %, 0 of 1.2 kB",
        "convert: 50 %, 0.6 of 1.2 kB, 10 s left",
        "upload x: 0 %",
    ]
