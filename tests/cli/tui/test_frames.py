"""Frames of the full-screen chat: who is asked for rows, what is painted together, and when."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from textual._compositor import Compositor
from textual.geometry import Region, Size
from textual.widget import Widget

from qwen3_mlx.cli.tui.answer import Answer as AnswerText
from qwen3_mlx.cli.tui.growing_text import GrowingText
from qwen3_mlx.cli.tui.pace import FRAME_S, NEVER, Pace
from qwen3_mlx.cli.tui.painter import Painter
from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import Seat, paintings, sit
from tests.fakes import Hold


@pytest.mark.parametrize("rows", [{0}, {3, 22}, {23}, set(range(24))])
def test_rows_are_painted_as_textual_paints_them(rows: set[int]) -> None:
    async def test(seat: Seat) -> None:
        seat.app.input.cursor_blink = False
        for number in range(9):  # so that it scrolls, and has a scrollbar
            seat.app.log_view.note(f"note {number}")
        await seat.type("go")
        await seat.idle()
        whole = Region(0, min(rows), 80, max(rows) + 1 - min(rows))
        compositor = seat.app.screen._compositor
        assert isinstance(compositor, Painter)
        ours = compositor._render_chops(whole, rows.__contains__)
        textual = Compositor._render_chops(compositor, whole, rows.__contains__)
        assert [ours[y] for y in rows] == [textual[y] for y in rows]
        assert all(strip is not None for y in rows for strip in ours[y].values())

    sit(test, [Thinking("hm\nso"), Answer("**an** answer\n\n- one\n- two")])


def test_only_what_shows_in_a_row_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Widget, Region]] = []
    render_lines = Widget.render_lines

    def noted(self: Widget, crop: Region) -> Any:
        asked.append((self, crop))
        return render_lines(self, crop)

    async def test(seat: Seat) -> None:
        seat.app.input.cursor_blink = False
        await seat.type("go")
        await seat.idle()
        answer = seat.app.log_view.last_answer()
        assert answer is not None
        y = answer.region.y + 1
        monkeypatch.setattr(Widget, "render_lines", noted)
        compositor = seat.app.screen._compositor
        compositor._render_chops(Region(0, 0, 80, 24), {y, 23}.__contains__)
        assert asked == [(seat.app.status, Region(0, 0, 80, 1)), (answer, Region(0, 1, 80, 1))]

    sit(test, [Answer("one\n\ntwo\n\nthree")])


def test_what_changes_within_a_frame_is_painted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(seat: Seat) -> None:
        seat.app.input.cursor_blink = False
        text = AnswerText()
        seat.app.log_view.add(text)
        text.append("word")
        await seat.until("word")
        await seat.pilot.pause(0.3)
        painted = paintings(monkeypatch)
        with seat.app.stage.frame():
            text.append(" more")
            seat.app.status.show("busy")
        assert len(painted) == 1  # at once
        assert {row for row, _, _ in painted[0].spans} == {19, 23}
        assert "word more" in seat.seen
        assert "busy" in seat.status
        await seat.pilot.pause(0.3)
        assert len(painted) == 1

    sit(test)


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
def test_no_full_collection_within_a_turn(leave: bool) -> None:
    before, go_on = gc.get_threshold(), threading.Event()

    async def test(seat: Seat) -> None:
        await seat.type("go")
        await seat.until("the answer")
        assert gc.get_threshold() == (*before[:2], NEVER)
        if not leave:
            go_on.set()
            await seat.idle()
            assert gc.get_threshold() == before

    sit(test, [Answer("the answer"), Hold(go_on)])
    assert gc.get_threshold() == before


def test_the_last_words_are_painted_before_the_collector_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[bool, bool]] = []

    async def test(seat: Seat) -> None:
        stage = seat.app.stage
        monkeypatch.setattr(
            "qwen3_mlx.cli.tui.app.collect_all",
            lambda allowed: calls.append((allowed, stage._in_frame)),
        )
        await seat.type("go")
        await seat.idle()
        assert calls == [(False, False), (True, False)]

    sit(test, [Answer("the answer")])


def test_a_line_more_is_laid_out_once_and_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[object] = []
    drawn: list[int] = []
    reflow, render_line = Compositor.reflow, GrowingText.render_line

    def counted(self: Compositor, parent: Widget, size: Size) -> Any:
        laid_out.append(parent)
        return reflow(self, parent, size)

    def noted(self: GrowingText, y: int) -> Any:
        drawn.append(y)
        return render_line(self, y)

    async def test(seat: Seat) -> None:
        seat.app.input.cursor_blink = False
        text = AnswerText()
        seat.app.log_view.add(text)
        text.append("```\n" + "line\n" * 30)  # so that the log must scroll
        await seat.until("line")
        await seat.pilot.pause(0.3)
        monkeypatch.setattr(Compositor, "reflow", counted)
        monkeypatch.setattr(GrowingText, "render_line", noted)
        rows = text.size.height
        text.append("last\n")
        await seat.until("last")
        await seat.pilot.pause(0.3)
        assert text.size.height == rows + 1
        assert len(laid_out) == 1
        assert 1 <= len(drawn) <= 3  # the new one, and what ends the block
        assert min(drawn) >= rows - 2

    sit(test)


def test_a_line_more_is_painted_at_once_and_the_scrollbar_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(seat: Seat) -> None:
        seat.app.input.cursor_blink = False
        text = AnswerText()
        seat.app.log_view.add(text)
        text.append("```\n" + "line\n" * 30)
        await seat.until("line")
        await seat.pilot.pause(0.3)
        painted = paintings(monkeypatch)
        for number in range(1, 10):
            rows = text.size.height
            with seat.app.stage.frame():
                text.append(f"last {number}\n")
            assert len(painted) == number
            right = max(right for _, _, right in painted[-1].spans)
            assert (right == 80) == (text.size.height > rows)  # the scrollbar with the rows
            assert f"last {number}" in seat.seen
        await seat.pilot.pause(0.3)
        assert len(painted) == 9
        with seat.app.stage.frame():
            pass
        assert not seat.app.stage._grown

    sit(test)


def test_what_is_painted_takes_along_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(seat: Seat) -> None:
        seat.app.input.cursor_blink = False
        await seat.pilot.pause(0.3)
        painted = paintings(monkeypatch)
        seat.app.status.show("busy")
        seat.app.stage._compositor_refresh()  # as a layout does
        assert 23 in {row for row, _, _ in painted[0].spans}

    sit(test)


def test_the_parts_of_a_turn_are_there_before_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a token's frame lays out and paints them, and waits for no message."""
    speak, answer = threading.Event(), threading.Event()

    async def test(seat: Seat) -> None:
        app = seat.app
        app.input.cursor_blink = False
        await seat.type("go")
        await seat.until("› go")
        await seat.pilot.pause(0.3)
        parts = [*app.query(Thought), *app.query(AnswerText)]
        assert [part.display for part in parts] == [False, False]
        assert app.log_view.last_answer() is None
        painted = paintings(monkeypatch)
        for event, text in ((speak, "│ hm"), (answer, "the answer")):
            painted.clear()
            event.set()
            await seat.until(lambda: painted)
            assert text in seat.seen
            await seat.pilot.pause(0.3)
            assert len(painted) == 1
        assert [*app.query(Thought), *app.query(AnswerText)] == parts

    sit(test, [Hold(speak), Thinking("hm"), Hold(answer), Answer("the answer"), 2.0])


def test_parts_that_wait_stay_hidden_when_their_page_wakes() -> None:
    go_on = threading.Event()

    async def test(seat: Seat) -> None:
        await seat.type("go")
        await seat.until("› go")
        await seat.pilot.pause(0.1)
        page = seat.app.log_view._page
        assert page is not None
        before = [child.display for child in page.children]
        assert before[-2:] == [False, False]
        for asleep in (True, False):
            page.sleep(asleep)
        assert [child.display for child in page.children] == before
        go_on.set()

    sit(test, [Hold(go_on)])


@pytest.mark.parametrize("event", [Answer("yes"), Thinking("hm")])
def test_parts_that_a_turn_has_no_use_for_go(event: Any) -> None:
    async def test(seat: Seat) -> None:
        await seat.type("go")
        await seat.idle()
        await seat.pilot.pause(0.1)
        assert len(seat.app.query(Thought)) == isinstance(event, Thinking)
        assert len(seat.app.query(AnswerText)) == isinstance(event, Answer)

    sit(test, [event])
