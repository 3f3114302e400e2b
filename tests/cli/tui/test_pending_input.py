"""The full-screen chat: what is sent in a turn, or while a model loads, waits and is not lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qwen3_mlx.cli.tui.quit_dialog import QuitDialog
from qwen3_mlx.cli.tui.worker import Inbox, Running
from qwen3_mlx.errors import ContextError, ModelNotFoundError
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import run_chat
from tests.fakes import FakeGeneration, FakeModel, Pause, Turn


def messages(app: Any) -> list[str]:
    return [message["content"] for message in app.controller.chat.session.messages]


def paused_turn(*said: Thinking | Answer) -> tuple[list[Any], threading.Event]:
    """A turn that says something, and ends when the event is set (or the person stops it)."""
    go_on = threading.Event()
    return [*said, Pause(go_on)], go_on


async def test_messages_and_commands_wait_for_the_end_of_the_turn_and_are_done_in_order() -> None:
    first, end = paused_turn(Answer("first"))
    turns: list[Turn] = [first, *([Answer(text)] for text in ("second", "third", "fourth"))]
    async with run_chat(*turns, size=(80, 40)) as chat:
        await chat.type("one")
        await chat.until("first")
        await chat.type("two")
        await chat.type("/budget 7")
        await chat.type("three")
        await chat.type("/no_think")
        await chat.type("four\nlines")
        assert chat.app.input.text == ""
        assert "waiting › two" in chat.seen and "waiting › /budget 7" in chat.seen
        assert "waiting › three" in chat.seen and "… 2 more" in chat.seen
        assert "› two" not in [row.strip() for row in chat.rows]
        assert len(chat.model.asked) == 1 and "budget" not in chat.status
        end.set()
        await chat.until("fourth")
        await chat.idle()
        assert "waiting" not in chat.seen
        assert chat.seen.index("› two") < chat.seen.index("at most 7") < chat.seen.index("› three")
        asked = [options for _, options in chat.model.asked]
        assert [options.thinking_budget for options in asked] == [None, None, 7, 7]
        assert [options.thinking for options in asked] == [None, None, None, False]
        assert chat.model.warmed == [8]  # not between two turns that follow at once
    app = chat.app
    want = ["one", "first", "two", "second", "three", "third", "four\nlines", "fourth"]
    assert messages(app) == want


async def test_a_key_that_comes_in_the_last_moment_of_a_turn_is_not_lost() -> None:
    """Before the interface has heard of the end, though the model is done."""
    turn, end = paused_turn(Answer("first"))
    async with run_chat(turn) as chat:
        await chat.type("one")
        await chat.until("first")
        view = chat.app.controller.turn
        assert view is not None
        end.set()
        assert view.running.over.wait(60)  # no await: the interface can't have seen it
        chat.app.input.insert("/budget 8")
        chat.app.input.action_send()
        await chat.until("at most 8 tokens")


async def test_help_and_quit_act_at_once() -> None:
    turn, _ = paused_turn(Answer("first"))
    async with run_chat(turn, [Answer("second")]) as chat:
        await chat.type("one")
        await chat.until("first")
        await chat.type("/help")
        await chat.until("Ctrl-T")
        assert chat.app.controller.turn is not None
        await chat.type("two")
        await chat.type("/quit or not")
        await chat.until("/quit: got 'or not', expected nothing behind it")
        await chat.type("/quit")
    app = chat.app
    assert app.return_value == 0
    assert messages(app) == ["one", "first"]


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
async def test_stopping_the_turn_gives_back_what_waits(key: str) -> None:
    turn, _ = paused_turn(Answer("first"))
    async with run_chat(turn) as chat:
        await chat.type("one")
        await chat.until("first")
        await chat.type("two")
        await chat.type("/budget 8")
        await chat.press(*"more")
        await chat.press(key)
        await chat.idle()
        assert chat.app.input.text == "two\n/budget 8\nmore"
        assert "waiting" not in chat.seen and "stopped by you" in chat.seen
        assert chat.model.warmed == [2]
    assert messages(chat.app) == ["one", "first"]


async def test_answer_now_leaves_it_waiting() -> None:
    thought, _ = paused_turn(Thinking("hm"))
    async with run_chat([*thought, Answer("first")], [Answer("second")]) as chat:
        await chat.type("one")
        await chat.until("│ hm")
        await chat.type("two")
        await chat.press("escape")
        await chat.until("second")
    app = chat.app
    assert messages(app) == ["one", "first", "two", "second"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), ContextError("too long", got="9")])
async def test_a_turn_that_fails_gives_back_what_waits(error: Exception) -> None:
    turn, end = paused_turn()
    async with run_chat([*turn, error]) as chat:
        await chat.type("one")
        await chat.until(lambda: chat.app.controller.turn)
        await chat.type("two")
        await chat.press(*"more")
        end.set()
        await chat.until("error: ")
        await chat.idle()
        assert chat.app.input.text == "one\ntwo\nmore"  # the turn's own was refused


async def test_a_command_that_fails_gives_back_what_waits_behind_it() -> None:
    turn, end = paused_turn(Answer("first"))
    async with run_chat(turn) as chat:
        await chat.type("one")
        await chat.until("first")
        await chat.type("/budget much")
        await chat.type("two")
        end.set()
        await chat.until("error: /budget")
        await chat.idle()
        assert chat.app.input.text == "two"
    assert messages(chat.app) == ["one", "first"]


async def test_what_is_sent_while_a_model_loads_waits_for_it() -> None:
    loaded, models = threading.Event(), {"fake": FakeModel([[Answer("at last")], [Answer("b")]])}

    def load(name: str, _progress: Any) -> FakeModel:
        assert loaded.wait(60)
        return models[name]

    async with run_chat(load=load) as chat:
        await chat.type("hello")
        await chat.type("/budget 9")
        await chat.type("again")
        assert "waiting › hello" in chat.seen
        loaded.set()
        await chat.until("at last")
        await chat.idle()
        assert chat.seen.count("› hello") == 1
        loaded.clear()
        await chat.type("/model none")
        await chat.until("loading none")
        await chat.type("and now?")  # to the model to come, not to the one there is
        assert "waiting › and now?" in chat.seen
        loaded.set()
        await chat.until("error: KeyError")
        assert chat.app.input.text == "and now?"
    app = chat.app
    assert messages(app) == ["hello", "at last", "again", "b"]
    assert models["fake"].asked[1][1].thinking_budget == 9


async def test_without_a_model_nothing_is_lost() -> None:
    model = FakeModel([[Answer("from the other")]], name="other")
    tried = threading.Event()

    def load(name: str, _progress: Any) -> FakeModel:
        if name == "other":
            return model
        assert tried.wait(60)
        raise ModelNotFoundError("unknown model", got=name)

    async with run_chat(load=load) as chat:
        await chat.type("hello")
        tried.set()
        await chat.until("/model NAME")
        assert chat.app.input.text == "hello"
        await chat.press("enter")
        await chat.until("waiting › hello")
        await chat.press("ctrl+c")
        assert chat.app.input.text == "hello" and "waiting" not in chat.seen
        await chat.press("enter")
        await chat.type("/model other")
        await chat.until("from the other")
    assert messages(chat.app) == ["hello", "from the other"]


def test_a_press_before_the_turn_has_begun_is_heard() -> None:
    generation = FakeGeneration([Thinking("hm"), Answer("never heard")])

    def begin(_progress: Any) -> FakeGeneration:
        running.press()  # the prompt is still being prepared
        return generation

    running = Running(begin, Inbox(lambda: None))
    running()
    assert generation.wishes == ["stop"] and running.presses == 1


@pytest.mark.parametrize("typed", ["\x04", "half\n\x04"])
async def test_ctrl_d_typed_before_the_chat_is_drawn_leaves_but_asks_if_a_message_waits(
    typed: str,
) -> None:
    loaded = threading.Event()

    def load(_name: str, _progress: Any) -> FakeModel:
        assert loaded.wait(60)
        return FakeModel([[Answer("whole")]])

    async with run_chat(load=load, typed_ahead=typed) as chat:
        if typed == "\x04":
            await chat.until(lambda: chat.app.return_code == 0)
        else:
            await chat.until(lambda: isinstance(chat.app.screen, QuitDialog))
            await chat.press("escape")
        loaded.set()
        if typed != "\x04":
            await chat.until("whole")
