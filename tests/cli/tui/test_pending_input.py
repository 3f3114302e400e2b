"""The full-screen chat: what is sent in a turn, or while a model loads, waits and is not lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qwen3_mlx.cli.tui.worker import Inbox, Running
from qwen3_mlx.errors import ContextError, ModelNotFoundError
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import Seat, sit
from tests.fakes import FakeGeneration, FakeModel, Hold, Turn


def messages(app: Any) -> list[str]:
    return [message["content"] for message in app.controller.chat.session.messages]


def held(*said: Thinking | Answer) -> tuple[list[Any], threading.Event]:
    """A turn that says something, and ends when the event is set (or the person stops it)."""
    go_on = threading.Event()
    return [*said, Hold(go_on)], go_on


def test_messages_and_commands_wait_for_the_end_of_the_turn_and_are_done_in_order() -> None:
    first, end = held(Answer("first"))

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("first")
        await seat.type("two")
        await seat.type("/budget 7")
        await seat.type("three")
        await seat.type("/no_think")
        await seat.type("four\nlines")
        assert seat.app.input.text == ""
        assert "waiting › two" in seat.seen and "waiting › /budget 7" in seat.seen
        assert "waiting › three" in seat.seen and "… 2 more" in seat.seen
        assert "› two" not in [row.strip() for row in seat.rows]
        assert len(seat.model.asked) == 1 and "budget" not in seat.status
        end.set()
        await seat.until("fourth")
        await seat.idle()
        assert "waiting" not in seat.seen
        assert seat.seen.index("› two") < seat.seen.index("at most 7") < seat.seen.index("› three")
        asked = [options for _, options in seat.model.asked]
        assert [options.thinking_budget for options in asked] == [None, None, 7, 7]
        assert [options.thinking for options in asked] == [None, None, None, False]
        assert seat.model.warmed == [8]  # not between two turns that follow at once

    turns: list[Turn] = [first, *([Answer(text)] for text in ("second", "third", "fourth"))]
    app = sit(test, *turns, size=(80, 40))
    want = ["one", "first", "two", "second", "three", "third", "four\nlines", "fourth"]
    assert messages(app) == want


def test_a_key_that_comes_in_the_last_moment_of_a_turn_is_not_lost() -> None:
    """Before the interface has heard of the end, though the model is done."""
    turn, end = held(Answer("first"))

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("first")
        view = seat.app.controller.turn
        assert view is not None
        end.set()
        assert view.running.over.wait(60)  # no await: the interface can't have seen it
        seat.app.input.insert("/budget 8")
        seat.app.input.action_send()
        await seat.until("at most 8 tokens")

    sit(test, turn)


def test_help_and_quit_act_at_once() -> None:
    turn, _ = held(Answer("first"))

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("first")
        await seat.type("/help")
        await seat.until("Ctrl-T")
        assert seat.app.controller.turn is not None
        await seat.type("two")
        await seat.type("/quit")

    app = sit(test, turn, [Answer("second")])
    assert app.return_value == 0
    assert messages(app) == ["one", "first"]


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
def test_stopping_the_turn_gives_back_what_waits(key: str) -> None:
    turn, _ = held(Answer("first"))

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("first")
        await seat.type("two")
        await seat.type("/budget 8")
        await seat.press(*"more")
        await seat.press(key)
        await seat.idle()
        assert seat.app.input.text == "two\n/budget 8\nmore"
        assert "waiting" not in seat.seen and "stopped by you" in seat.seen
        assert seat.model.warmed == [2]

    assert messages(sit(test, turn)) == ["one", "first"]


def test_answer_now_leaves_it_waiting() -> None:
    thought, _ = held(Thinking("hm"))

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("│ hm")
        await seat.type("two")
        await seat.press("escape")
        await seat.until("second")

    app = sit(test, [*thought, Answer("first")], [Answer("second")])
    assert messages(app) == ["one", "first", "two", "second"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), ContextError("too long", got="9")])
def test_a_turn_that_fails_gives_back_what_waits(error: Exception) -> None:
    turn, end = held()

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until(lambda: seat.app.controller.turn)
        await seat.type("two")
        await seat.press(*"more")
        end.set()
        await seat.until("error: ")
        await seat.idle()
        assert seat.app.input.text == "one\ntwo\nmore"  # the turn's own was refused

    sit(test, [*turn, error])


def test_a_command_that_fails_gives_back_what_waits_behind_it() -> None:
    turn, end = held(Answer("first"))

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("first")
        await seat.type("/budget much")
        await seat.type("two")
        end.set()
        await seat.until("error: /budget")
        await seat.idle()
        assert seat.app.input.text == "two"

    assert messages(sit(test, turn)) == ["one", "first"]


def test_what_is_sent_while_a_model_loads_waits_for_it() -> None:
    loaded, models = threading.Event(), {"fake": FakeModel([[Answer("at last")], [Answer("b")]])}

    def load(name: str, _progress: Any) -> FakeModel:
        assert loaded.wait(60)
        return models[name]

    async def test(seat: Seat) -> None:
        await seat.type("hello")
        await seat.type("/budget 9")
        await seat.type("again")
        assert "waiting › hello" in seat.seen
        loaded.set()
        await seat.until("at last")
        await seat.idle()
        assert seat.seen.count("› hello") == 1
        loaded.clear()
        await seat.type("/model none")
        await seat.until("loading none")
        await seat.type("and now?")  # to the model to come, not to the one there is
        assert "waiting › and now?" in seat.seen
        loaded.set()
        await seat.until("error: KeyError")
        assert seat.app.input.text == "and now?"

    app = sit(test, load=load)
    assert messages(app) == ["hello", "at last", "again", "b"]
    assert models["fake"].asked[1][1].thinking_budget == 9


def test_without_a_model_nothing_is_lost() -> None:
    model = FakeModel([[Answer("from the other")]], name="other")
    tried = threading.Event()

    def load(name: str, _progress: Any) -> FakeModel:
        if name == "other":
            return model
        assert tried.wait(60)
        raise ModelNotFoundError("unknown model", got=name)

    async def test(seat: Seat) -> None:
        await seat.type("hello")
        tried.set()
        await seat.until("/model NAME")
        assert seat.app.input.text == "hello"
        await seat.press("enter")
        await seat.until("waiting › hello")
        await seat.press("ctrl+c")
        assert seat.app.input.text == "hello" and "waiting" not in seat.seen
        await seat.press("enter")
        await seat.type("/model other")
        await seat.until("from the other")

    assert messages(sit(test, load=load)) == ["hello", "from the other"]


def test_a_press_before_the_turn_has_begun_is_heard() -> None:
    generation = FakeGeneration([Thinking("hm"), Answer("never heard")])

    def begin(_progress: Any) -> FakeGeneration:
        running.press()  # the prompt is still being prepared
        return generation

    running = Running(begin, Inbox(lambda: None))
    running()
    assert generation.wishes == ["stop"] and running.presses == 1
