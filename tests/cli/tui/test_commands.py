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
from tests.cli.tui.pilot import Seat, sit
from tests.cli.tui.pilot import history as history_file
from tests.fakes import FakeModel

TWO = [[Thinking("t1"), Answer("first")], [Thinking("t2"), Answer("second")]]


async def talk(seat: Seat) -> None:
    for text in ("one", "two"):
        await seat.type(text)
        await seat.idle()


def messages(app: Any) -> list[str]:
    return [message["content"] for message in app.controller.chat.session.messages]


def test_help_lists_commands_and_keys() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("/help")
        await seat.until("/quit")
        for text in ("/export md|json [PATH]", "Ctrl-T", "Alt-Up", "Ctrl-O", "/model [NAME]"):
            assert text in seat.seen

    sit(test, size=(90, 40))


def test_unknown_commands_name_the_nearest() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("/buget 3")
        await seat.until("did you mean /budget?")

    sit(test)


def test_a_refused_command_comes_back_into_the_input_and_a_path_is_a_message() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("/etc what is this?")
        await seat.until("unknown command")
        assert seat.app.input.text == "/etc what is this?"
        await seat.press("home", "right", *"etc/", "enter")
        await seat.until("first")

    assert messages(sit(test, *TWO))[0] == "/etc/etc what is this?"


def test_what_begins_with_a_blank_is_text() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("/nonsense")
        await seat.until("unknown command")
        await seat.press("ctrl+c")
        await seat.type(" /nonsense")
        await seat.idle()
        assert "first" in seat.seen

    assert messages(sit(test, *TWO))[0] == " /nonsense"


def test_undo_takes_the_last_turn_off_the_screen_too() -> None:
    async def test(seat: Seat) -> None:
        await talk(seat)
        await seat.type("/undo")
        await seat.until("taken back: two")
        assert "first" in seat.seen and "second" not in seat.seen

    assert messages(sit(test, *TWO)) == ["one", "first"]


def test_edit_puts_the_message_back_into_the_input() -> None:
    async def test(seat: Seat) -> None:
        await talk(seat)
        await seat.type("/edit")
        await seat.until(lambda: seat.app.input.text == "two")
        assert "second" not in seat.seen
        await seat.press(*" plus", "enter")
        await seat.until("third")
        await seat.type("/edit other")
        await seat.until("fourth")

    app = sit(test, *TWO, [Answer("third")], [Answer("fourth")])
    assert messages(app) == ["one", "first", "other", "fourth"]


def test_retry_shows_one_answer_only() -> None:
    async def test(seat: Seat) -> None:
        await talk(seat)
        await seat.type("/retry")
        await seat.until("again")
        await seat.idle()
        assert "second" not in seat.seen and seat.seen.count("› two") == 1

    assert messages(sit(test, *TWO, [Answer("again")])) == ["one", "first", "two", "again"]


def test_drop_forgets_the_oldest_turn_and_clear_all() -> None:
    async def test(seat: Seat) -> None:
        await talk(seat)
        await seat.type("/drop")
        await seat.until("the oldest 1 of 2 turns are dropped")
        assert messages(seat.app) == ["S", "two", "second"]
        await seat.type("/clear")
        await seat.until("forgotten")
        assert "second" not in seat.seen

    assert messages(sit(test, *TWO, system="S")) == ["S"]


def test_export_and_tokens(tmp_path: Path) -> None:
    async def test(seat: Seat) -> None:
        await talk(seat)
        for path in (tmp_path / "a.md", tmp_path / "a.json"):
            await seat.type(f"/export {path.suffix[1:]} {path}")
            await seat.until(lambda path=path: path.exists())
        await seat.type(f"/export {tmp_path / 'a.md'}")
        await seat.until("exists already")
        await seat.type("/tokens")
        await seat.until("of 4,096")

    sit(test, *TWO, size=(100, 40))
    text = (tmp_path / "a.md").read_text()
    assert "## User\n\none\n\n## Assistant\n\n<details><summary>Thinking</summary>" in text
    assert json.loads((tmp_path / "a.json").read_text())["messages"][3]["reasoning_content"] == "t2"


def test_save_and_load_bring_the_conversation_back(tmp_path: Path) -> None:
    async def test(seat: Seat) -> None:
        await talk(seat)
        await seat.type(f"/save {tmp_path / 'talk.json'}")
        await seat.until("saved:")
        await seat.type("/clear")
        await seat.type(f"/load {tmp_path / 'talk.json'}")
        await seat.until("loaded:")
        assert "› one" in seat.seen and "▸ thought" in seat.seen and "second" in seat.seen

    sit(test, *TWO)


def test_model_switches_and_keeps_the_conversation() -> None:
    models = {
        "demo": FakeModel([[Answer("first")]], name="demo"),
        "8b": FakeModel([[Answer("second")]], name="8b", family="instruct"),
    }
    fetched: list[str] = []

    async def test(seat: Seat) -> None:
        await seat.until("demo │ thinking")
        await seat.type("/budget 100")
        await seat.type("one")
        await seat.until("first")
        await seat.idle()
        await seat.type("/model nonsense")
        await seat.until("error: KeyError")
        await seat.type("/model 8b")
        await seat.until("from now on: 8b, not thinking")
        await seat.type("two")
        await seat.until("second")

    app = sit(test, load=lambda name, _progress: models[name], name="demo", fetch=fetched.append)
    assert messages(app) == ["one", "first", "two", "second"]
    assert [m["content"] for m in models["8b"].asked[0][0]] == ["one", "first", "two"]


def test_commands_complete_and_are_listed_while_typed() -> None:
    async def test(seat: Seat) -> None:
        await seat.press("/")
        await seat.until("/help")
        await seat.press("b")
        await seat.until("/budget [N|off]")
        assert "/think" not in seat.seen
        await seat.press("tab")
        assert seat.app.input.text == "/budget "
        await seat.press("5", "enter")
        await seat.until("at most 5 tokens")
        assert "/budget [N|off]" not in seat.seen

    sit(test)


def test_the_list_of_commands_leaves_room_for_the_input() -> None:
    async def test(seat: Seat) -> None:
        await seat.pilot.resize_terminal(24, 7)
        await seat.press("/")
        await seat.until("/help")
        await seat.until(lambda: seat.rows[-2].startswith(" /") and "fake" in seat.status)
        assert "/budget" not in seat.seen

    sit(test)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("/no", "/no_think "),
        ("/s", "/s"),
        ("/export j", "/export json "),
        ("/model 4b-in", "/model 4b-instruct-2507 "),
        ("/model demo-", "/model demo-moe "),
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


def test_several_lines() -> None:
    async def test(seat: Seat) -> None:
        await seat.press("a", "alt+enter", "b", "ctrl+j", "c", "up", "up", "home", "x", "enter")
        await seat.idle()

    assert messages(sit(test, [Answer("ok")]))[0] == "xa\nb\nc"


def test_history_across_runs(tmp_path: Path) -> None:
    file = history_file(tmp_path, "older", "two\n+lines")

    async def test(seat: Seat) -> None:
        text = lambda: seat.app.input.text  # noqa: E731
        await seat.press(*"new", "up")
        assert text() == "two\nlines"
        await seat.press("up", "up", "up")
        assert text() == "older"
        await seat.press("down", "down", "down")
        assert text() == "new"
        await seat.press("enter")
        await seat.idle()

    sit(test, [Answer("ok")], history=file)
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


def test_pasting_5000_lines() -> None:
    from textual import events

    text = "\r\n".join(f"line {n}\tx\x1b[2J" for n in range(5000)).replace("\r\n", "\r", 9)

    async def test(seat: Seat) -> None:
        began = time.process_time()
        seat.app.input.post_message(events.Paste(text))
        await seat.until("line 4999")
        await seat.press("enter")
        await seat.until("… 4,988 more lines")
        await seat.idle()
        assert time.process_time() - began < 10

    sent = messages(sit(test, [Answer("ok")]))[0]
    assert sent == "\n".join(f"line {n}\tx[2J" for n in range(5000))


def test_what_the_mouse_marks_is_copied() -> None:
    async def test(seat: Seat) -> None:
        await talk(seat)
        row = next(n for n, text in enumerate(seat.rows) if "first" in text)
        await seat.pilot.mouse_down(offset=(1, row))
        await seat.pilot.hover(offset=(4, row))
        await seat.pilot.mouse_up(offset=(4, row))
        await seat.press("ctrl+o")
        await seat.until("copied what was marked")
        assert seat.app.clipboard == "firs"
        await seat.press("ctrl+o")
        assert seat.app.clipboard == "second"

    sit(test, *TWO)


def test_letters_behind_an_enter_belong_to_the_next_message() -> None:
    async def test(seat: Seat) -> None:
        for letter in "one":
            seat.app.input.insert(letter)
        seat.app.input.action_send()
        seat.app.input.insert("two")  # before the chat has heard of the first
        await seat.idle()
        await seat.until("first")
        assert seat.app.input.text == "two"
        await seat.press("enter")
        await seat.until("second")

    assert messages(sit(test, *TWO)) == ["one", "first", "two", "second"]
