"""The full-screen chat paints no more than it must: what it does for a line that is added."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qwen3_mlx.cli.tui import growing_text
from qwen3_mlx.cli.tui.answer import Answer as AnswerText
from qwen3_mlx.cli.tui.growing_text import GrowingText
from qwen3_mlx.cli.tui.thought import ThoughtText
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import Seat, sit
from tests.fakes import Hold, Turn

LINES = 40


def quick(kind: type[Thinking | Answer]) -> Turn:
    """Lines that come faster than they are read, each in a frame of its own."""
    return [step for n in range(LINES) for step in (kind(f"line {n}  \n"), 0.045)]


def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[GrowingText]:
    """Lists each text that asks for a new layout."""
    asked: list[GrowingText] = []
    refresh = GrowingText.refresh

    def counted(self: GrowingText, *regions: Any, layout: bool = False, **more: Any) -> Any:
        if layout:
            asked.append(self)
        return refresh(self, *regions, layout=layout, **more)

    monkeypatch.setattr(GrowingText, "refresh", counted)
    return asked


@pytest.mark.parametrize("kind", [Thinking, Answer])
def test_a_quick_text_is_laid_out_some_rows_ahead(
    monkeypatch: pytest.MonkeyPatch, kind: type[Thinking | Answer]
) -> None:
    asked = laid_out(monkeypatch)
    monkeypatch.setattr(growing_text, "QUICK_S", 10.0)  # however slow the machine

    async def test(seat: Seat) -> None:
        await seat.type("go")
        await seat.idle()
        assert f"line {LINES - 1}" in seat.seen

    sit(test, quick(kind), show_thinking="always")
    assert 0 < len(asked) < LINES


@pytest.mark.parametrize("kind", [AnswerText, ThoughtText])
@pytest.mark.parametrize("quick", [True, False])
def test_rows_in_advance(
    monkeypatch: pytest.MonkeyPatch, kind: type[GrowingText], quick: bool
) -> None:
    """They are used up row by row, each is painted when its turn comes, and the rest goes."""
    monkeypatch.setattr(growing_text, "QUICK_S", 60.0 if quick else -1.0)
    heights = []

    async def test(seat: Seat) -> None:
        text = kind()
        seat.app.log_view.add(text)
        await seat.pilot.pause()
        for number in range(10):
            text.append(f"line {number}  \n")
            await seat.until(f"line {number}")
            await seat.pilot.pause()
            heights.append(text.size.height)
        text.free_spare_rows()
        await seat.until(lambda: text.size.height == 10)

    sit(test)
    assert heights == ([1, 5, 5, 5, 5, 9, 9, 9, 9, 13] if quick else [*range(1, 11)])


def test_a_text_that_ends_gives_its_spare_rows_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[type[GrowingText]] = []
    monkeypatch.setattr(GrowingText, "free_spare_rows", lambda self: settled.append(type(self)))
    go_on = threading.Event()

    async def test(seat: Seat) -> None:
        await seat.type("go")
        await seat.until("the answer")
        assert settled == [ThoughtText]
        go_on.set()
        await seat.idle()
        assert AnswerText in settled

    sit(test, [Thinking("hm"), Answer("the answer"), Hold(go_on)])
