"""The full-screen chat: its input, history, completion, and slash commands."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.cli.chat import input_history
from qwen3_mlx.cli.tui import hints
from qwen3_mlx.events import Answer, Thinking
from tests.cli.tui.pilot import ChatPilot, run_chat
from tests.cli.tui.pilot import history as history_file
from tests.fakes import FakeModel

TWO = [[Thinking("t1"), Answer("first")], [Thinking("t2"), Answer("second")]]


async def talk(chat: ChatPilot) -> None:
    for text in ("one", "two"):
        await chat.type(text)
        await chat.idle()


def messages(app: Any) -> list[str]:
    return [message["content"] for message in app.controller.chat.session.messages]


async def test_help_lists_commands_and_keys() -> None:
    async with run_chat(size=(90, 40)) as chat:
        await chat.type("/help")
        await chat.until("/quit")
        for text in ("/export md|json [PATH]", "Ctrl-T", "Alt-Up", "Ctrl-O", "/model [NAME]"):
            assert text in chat.seen


async def test_unknown_commands_name_the_nearest() -> None:
    async with run_chat() as chat:
        await chat.type("/buget 3")
        await chat.until("did you mean /budget?")


async def test_a_refused_command_comes_back_into_the_input_and_a_path_is_a_message() -> None:
    async with run_chat(*TWO) as chat:
        await chat.type("/etc what is this?")
        await chat.until("unknown command")
        assert chat.app.input.text == "/etc what is this?"
        await chat.press("home", "right", *"etc/", "enter")
        await chat.until("first")
    assert messages(chat.app)[0] == "/etc/etc what is this?"


async def test_so_does_a_command_with_an_argument_that_it_would_ignore() -> None:
    async with run_chat(*TWO) as chat:
        await talk(chat)
        await chat.type("/undo 3")
        await chat.until("nothing behind it")
        assert chat.app.input.text == "/undo 3" and "second" in chat.seen
        await chat.press("backspace", "backspace", "enter")
        await chat.until("taken back: two")


async def test_what_begins_with_a_blank_is_text() -> None:
    async with run_chat(*TWO) as chat:
        await chat.type("/nonsense")
        await chat.until("unknown command")
        await chat.press("ctrl+c")
        await chat.type(" /nonsense")
        await chat.idle()
        assert "first" in chat.seen
    assert messages(chat.app)[0] == " /nonsense"


async def test_undo_takes_the_last_turn_off_the_screen_too() -> None:
    async with run_chat(*TWO) as chat:
        await talk(chat)
        await chat.type("/undo")
        await chat.until("taken back: two")
        assert "first" in chat.seen and "second" not in chat.seen
    assert messages(chat.app) == ["one", "first"]


async def test_edit_puts_the_message_back_into_the_input() -> None:
    async with run_chat(*TWO, [Answer("third")], [Answer("fourth")]) as chat:
        await talk(chat)
        await chat.type("/edit")
        await chat.until(lambda: chat.app.input.text == "two")
        assert "second" not in chat.seen
        await chat.press(*" plus", "enter")
        await chat.until("third")
        await chat.type("/edit other")
        await chat.until("fourth")
    app = chat.app
    assert messages(app) == ["one", "first", "other", "fourth"]


async def test_retry_shows_one_answer_only() -> None:
    async with run_chat(*TWO, [Answer("again")]) as chat:
        await talk(chat)
        await chat.type("/retry")
        await chat.until("again")
        await chat.idle()
        assert "second" not in chat.seen and chat.seen.count("› two") == 1
    assert messages(chat.app) == ["one", "first", "two", "again"]


async def test_drop_forgets_the_oldest_turn_and_clear_all() -> None:
    async with run_chat(*TWO, system="S") as chat:
        await talk(chat)
        await chat.type("/drop")
        await chat.until("dropped: the oldest 1 of 2 turns")
        assert messages(chat.app) == ["S", "two", "second"]
        await chat.type("/clear")
        await chat.until("forgotten")
        assert "second" not in chat.seen
    assert messages(chat.app) == ["S"]


async def test_export_and_tokens(tmp_path: Path) -> None:
    async with run_chat(*TWO, size=(100, 40)) as chat:
        await talk(chat)
        for path in (tmp_path / "a.md", tmp_path / "a.json"):
            await chat.type(f"/export {path.suffix[1:]} {path}")
            await chat.until(lambda path=path: path.exists())
        await chat.type(f"/export {tmp_path / 'a.md'}")
        await chat.until("exists already")
        await chat.type("/tokens")
        await chat.until("of 4,096")
    text = (tmp_path / "a.md").read_text()
    assert "## User\n\none\n\n## Assistant\n\n<details><summary>Thinking</summary>" in text
    assert json.loads((tmp_path / "a.json").read_text())["messages"][3]["reasoning_content"] == "t2"


async def test_save_and_load_bring_the_conversation_back(tmp_path: Path) -> None:
    async with run_chat(*TWO) as chat:
        await talk(chat)
        await chat.type(f"/save {tmp_path / 'talk.json'}")
        await chat.until("saved:")
        await chat.type("/clear")
        await chat.type(f"/load {tmp_path / 'talk.json'}")
        await chat.until("loaded:")
        assert "› one" in chat.seen and "▸ thought" in chat.seen and "second" in chat.seen


async def test_model_switches_and_keeps_the_conversation() -> None:
    models = {
        "demo": FakeModel([[Answer("first")]], name="demo"),
        "8b": FakeModel([[Answer("second")]], name="8b", family="instruct"),
    }
    fetched: list[str] = []
    async with run_chat(
        load=lambda name, _progress: models[name], name="demo", fetch=fetched.append
    ) as chat:
        await chat.until("demo │ thinking")
        await chat.type("/budget 100")
        await chat.type("one")
        await chat.until("first")
        await chat.idle()
        await chat.type("/model nonsense")
        await chat.until("error: KeyError")
        await chat.type("/model 8b")
        await chat.until("from now on: 8b, not thinking")
        await chat.type("two")
        await chat.until("second")
    app = chat.app
    assert messages(app) == ["one", "first", "two", "second"]
    assert [m["content"] for m in models["8b"].asked[0][0]] == ["one", "first", "two"]


async def test_commands_complete_and_are_listed_while_typed() -> None:
    async with run_chat() as chat:
        await chat.press("/")
        await chat.until("/help")
        await chat.press("b")
        await chat.until("/budget [N|auto|off]")
        assert "/think" not in chat.seen
        await chat.press("tab")
        assert chat.app.input.text == "/budget "
        await chat.press("5", "enter")
        await chat.until("at most 5 tokens")
        assert "/budget [N|auto|off]" not in chat.seen


async def test_the_list_of_commands_leaves_room_for_the_input() -> None:
    async with run_chat() as chat:
        await chat.pilot.resize_terminal(24, 7)
        await chat.press("/")
        await chat.until("/help")
        await chat.until(lambda: chat.rows[-2].startswith(" /") and "fake" in chat.status)
        assert "/budget" not in chat.seen


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("/no", "/no_think "),
        ("/s", "/s"),
        ("/export j", "/export json "),
        ("/model 4b-in", "/model 4b-instruct-2507 "),
        ("/model demo-", "/model demo-"),
        ("/model demo-t", "/model demo-tools "),
        ("/nonsense x", "/nonsense x"),
        ("hello", "hello"),
    ],
)
def test_completion(typed: str, completed: str) -> None:
    assert hints.complete(typed) == completed


def test_completion_of_files(tmp_path: Path) -> None:
    (tmp_path / "talk.json").touch()
    (tmp_path / "folder").mkdir()
    assert hints.complete(f"/load {tmp_path}/ta") == f"/load {tmp_path}/talk.json "
    assert hints.complete(f"/load {tmp_path}/f") == f"/load {tmp_path}/folder/"


async def test_several_lines() -> None:
    async with run_chat([Answer("ok")]) as chat:
        await chat.press("a", "alt+enter", "b", "ctrl+j", "c", "up", "up", "home", "x", "enter")
        await chat.idle()
    assert messages(chat.app)[0] == "xa\nb\nc"


async def test_history_across_runs(tmp_path: Path) -> None:
    file = history_file(tmp_path, "older", "two\n+lines")
    async with run_chat([Answer("ok")], history=file) as chat:
        text = lambda: chat.app.input.text  # noqa: E731
        await chat.press(*"new", "up")
        assert text() == "two\nlines"
        await chat.press("up", "up", "up")
        assert text() == "older"
        await chat.press("down", "down", "down")
        assert text() == "new"
        await chat.press("enter")
        await chat.idle()
    assert input_history.read(file) == ["older", "two\nlines", "new"]


def test_the_line_prompt_reads_the_same_file(tmp_path: Path) -> None:
    from prompt_toolkit.history import FileHistory

    file = tmp_path / "history"
    input_history.add(file, "one")
    input_history.add(file, "two\nlines")
    assert list(FileHistory(str(file)).load_history_strings()) == ["two\nlines", "one"]
    FileHistory(str(file)).store_string("three\n+x")
    assert input_history.read(file) == ["one", "two\nlines", "three\n+x"]
    assert input_history.read(tmp_path / "none") == [] and input_history.read(None) == []


async def test_pasting_5000_lines() -> None:
    from textual import events

    text = "\r\n".join(f"line {n}\tx\x1b[2J" for n in range(5000)).replace("\r\n", "\r", 9)
    async with run_chat([Answer("ok")]) as chat:
        began = time.process_time()
        chat.app.input.post_message(events.Paste(text))
        await chat.until("line 4999")
        await chat.press("enter")
        await chat.until("… 4,988 more lines")
        await chat.idle()
        assert time.process_time() - began < 10
    sent = messages(chat.app)[0]
    assert sent == "\n".join(f"line {n}\tx[2J" for n in range(5000))


async def test_what_the_mouse_marks_is_copied() -> None:
    async with run_chat(*TWO) as chat:
        await talk(chat)
        row = next(n for n, text in enumerate(chat.rows) if "first" in text)
        await chat.pilot.mouse_down(offset=(1, row))
        await chat.pilot.hover(offset=(4, row))
        await chat.pilot.mouse_up(offset=(4, row))
        await chat.press("ctrl+o")
        await chat.until("copied what was marked")
        assert chat.app.clipboard == "firs"
        await chat.press("ctrl+o")
        assert chat.app.clipboard == "second"


async def test_letters_behind_an_enter_belong_to_the_next_message() -> None:
    async with run_chat(*TWO) as chat:
        for letter in "one":
            chat.app.input.insert(letter)
        chat.app.input.action_send()
        chat.app.input.insert("two")  # before the chat has heard of the first
        await chat.idle()
        await chat.until("first")
        assert chat.app.input.text == "two"
        await chat.press("enter")
        await chat.until("second")
    assert messages(chat.app) == ["one", "first", "two", "second"]
