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
from tests.cli.tui.pilot import run_chat
from tests.fakes import Pause, Turn

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
async def test_a_quick_text_is_laid_out_some_rows_ahead(
    monkeypatch: pytest.MonkeyPatch, kind: type[Thinking | Answer]
) -> None:
    asked = laid_out(monkeypatch)
    monkeypatch.setattr(growing_text, "QUICK_S", 10.0)  # however slow the machine
    async with run_chat(quick(kind), show_thinking="always") as chat:
        await chat.type("go")
        await chat.idle()
        assert f"line {LINES - 1}" in chat.seen
    assert 0 < len(asked) < LINES


@pytest.mark.parametrize("kind", [AnswerText, ThoughtText])
@pytest.mark.parametrize("quick", [True, False])
async def test_rows_in_advance(
    monkeypatch: pytest.MonkeyPatch, kind: type[GrowingText], quick: bool
) -> None:
    """They are used up row by row, each is painted when its turn comes, and the rest goes."""
    monkeypatch.setattr(growing_text, "QUICK_S", 60.0 if quick else -1.0)
    heights = []
    async with run_chat() as chat:
        text = kind()
        chat.app.log_view.add(text)
        await chat.pilot.pause()
        for number in range(10):
            text.append(f"line {number}  \n")
            await chat.until(f"line {number}")
            await chat.pilot.pause()
            heights.append(text.size.height)
        text.free_spare_rows()
        await chat.until(lambda: text.size.height == 10)
    assert heights == ([1, 5, 5, 5, 5, 9, 9, 9, 9, 13] if quick else [*range(1, 11)])


async def test_a_text_that_ends_gives_its_spare_rows_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[type[GrowingText]] = []
    monkeypatch.setattr(GrowingText, "free_spare_rows", lambda self: settled.append(type(self)))
    go_on = threading.Event()
    async with run_chat([Thinking("hm"), Answer("the answer"), Pause(go_on)]) as chat:
        await chat.type("go")
        await chat.until("the answer")
        assert settled == [ThoughtText]
        go_on.set()
        await chat.idle()
        assert AnswerText in settled
