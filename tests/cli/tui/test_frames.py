"""The pace of the full-screen chat's frames, and the parts of a turn."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from textual.geometry import Region

from qwen3_mlx.cli.tui.answer import Answer as AnswerText
from qwen3_mlx.cli.tui.pace import FRAME_S, NEVER, Pace
from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.cli.tui.transcript import Page
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import run_chat
from tests.fakes import Pause


def test_frames_keep_their_distance() -> None:
    """One that is late is made up for, a long stop is not, and a slow one leaves time for keys."""
    pace = Pace()
    first = pace.next(10.0, 10.001)
    assert first == pytest.approx(10 + FRAME_S)
    second = pace.next(first + 0.004, first + 0.005)
    assert second == pytest.approx(10 + 2 * FRAME_S)
    stopped = second + 1.0
    assert pace.next(stopped, stopped) == pytest.approx(stopped + FRAME_S)
    slow = stopped + FRAME_S
    assert pace.next(slow, slow + FRAME_S) == pytest.approx(slow + 1.25 * FRAME_S)


@pytest.mark.parametrize("leave", [False, True])
async def test_no_full_collection_within_a_turn(leave: bool) -> None:
    before, go_on = gc.get_threshold(), threading.Event()
    async with run_chat([Answer("the answer"), Pause(go_on)]) as chat:
        await chat.type("go")
        await chat.until("the answer")
        assert gc.get_threshold() == (*before[:2], NEVER)
        if not leave:
            go_on.set()
            await chat.idle()
            await chat.until(lambda: gc.get_threshold() == before)
    assert gc.get_threshold() == before


async def test_parts_that_wait_stay_hidden_when_their_page_wakes() -> None:
    go_on = threading.Event()
    async with run_chat([Pause(go_on)]) as chat:
        await chat.type("go")
        await chat.until("› go")
        await chat.pilot.pause(0.1)
        page = chat.app.query(Page).last()
        before = [child.display for child in page.children]
        assert before[-2:] == [False, False]
        for asleep in (True, False):
            page.sleep(asleep)
        assert [child.display for child in page.children] == before
        go_on.set()


@pytest.mark.parametrize("event", [Answer("yes"), Thinking("hm")])
async def test_parts_that_a_turn_has_no_use_for_go(event: Any) -> None:
    async with run_chat([event]) as chat:
        await chat.type("go")
        await chat.idle()
        await chat.pilot.pause(0.1)
        assert len(chat.app.query(Thought)) == isinstance(event, Thinking)
        assert len(chat.app.query(AnswerText)) == isinstance(event, Answer)


async def test_a_text_that_ends_is_shown_before_the_collector_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[bool] = []
    async with run_chat([Answer("the last words")]) as chat:
        monkeypatch.setattr(
            "qwen3_mlx.cli.tui.app.collect_all",
            lambda allowed: (
                shown.append("the last words" in chat.seen) if allowed and not shown else None
            ),
        )
        await chat.type("go")
        await chat.until(lambda: shown)
        assert shown == [True]


async def test_a_long_text_repaints_its_new_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    regions: list[Region] = []
    refresh = AnswerText.refresh

    def noted(self: AnswerText, *dirty: Region, **options: Any) -> Any:
        regions.extend(dirty)
        return refresh(self, *dirty, **options)

    async with run_chat() as chat:
        text = AnswerText()
        chat.app.log_view.add(text)
        text.append("```\n" + "row\n" * 30)
        await chat.until("row")
        await chat.pilot.pause(0.1)
        monkeypatch.setattr(AnswerText, "refresh", noted)
        text.append("last\n")
        await chat.until("last")
        assert len(regions) == 1 and regions[0].y >= 28
