"""The chat through a pipe: whole transcripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.chat import journal
from qwen3_mlx.cli.chat.line_chat import LineChat
from qwen3_mlx.cli.chat.line_input import Lines
from qwen3_mlx.errors import ContextError
from qwen3_mlx.events import Answer, Thinking
from tests.fakes import Prefill


def test_a_message_a_line_and_nothing_but_answers_on_stdout(cli: Any) -> None:
    cli.script([Thinking("hm"), Answer("Hello!")], [Answer("Bye.\n")])
    result = cli("chat", "8b", stdin="hi\n\nbye\r\n")
    assert result.exit_code == 0
    assert result.stdout == "Hello!\nBye.\n"
    assert result.stderr == "hm\n"
    assert [m["content"] for m in cli.model.asked[1][0]] == ["hi", "Hello!", "bye"]


def test_last_line_without_an_end(cli: Any) -> None:
    cli.script([Answer("a")])
    assert cli("chat", "8b", stdin="hi").stdout == "a\n"


def test_commands_work_in_a_pipe(cli: Any) -> None:
    cli.script([Answer("a")], [Answer("b")], [Answer("c")])
    result = cli("chat", "8b", "--system", "S", stdin="/budget 7\nx\n/retry\n/quit\nnever sent\n")
    assert result.stdout == "a\nb\n"
    assert cli.model.asked[0][1].thinking_budget == 7
    assert cli.model.asked[1][0] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "x"},
    ]


def test_soft_switch_inside_a_message_stays_text(cli: Any) -> None:
    cli.script([Answer("a")])
    cli("chat", "8b", stdin="/no_think 2+2?\n")
    assert cli.model.asked[0][0][0]["content"] == "/no_think 2+2?"
    assert cli.model.asked[0][1].thinking is None


def test_an_error_mid_answer_is_shown_and_the_chat_goes_on(cli: Any) -> None:
    cli.script([Answer("half"), RuntimeError("out of memory")], [Answer("whole")])
    result = cli("chat", "8b", stdin="one\n/nonsense\ntwo\n")
    assert result.stdout == "half\nwhole\n"
    assert "error: RuntimeError: out of memory" in result.stderr
    assert "unknown command: got /nonsense" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.exit_code == 1  # through a pipe nobody saw it
    cli.script([RuntimeError("out of memory")])
    assert "Traceback" in cli("chat", "8b", "--debug", stdin="one\n").stderr


def test_a_message_that_begins_with_a_path_is_a_message(cli: Any) -> None:
    cli.script([Answer("a table")])
    result = cli("chat", "8b", stdin="/etc/hosts what is this?\n")
    assert (result.exit_code, result.stdout) == (0, "a table\n")
    assert cli.model.asked[0][0][-1]["content"] == "/etc/hosts what is this?"


def drafts_of(lines: Iterator[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each prompt begins with, in a chat in which `lines` are typed."""
    drafts: list[str] = []

    def read(_self: Lines, _prompt: str, draft: str = "") -> str:
        drafts.append(draft)
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr(Lines, "read", read)
    return drafts


def test_a_refused_command_comes_back_into_the_input(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = drafts_of(iter(["/nonsense is this", "/nonsense", "/help"]), monkeypatch)
    cli("chat", "8b", stdin="")
    assert drafts == ["", "/nonsense is this", "/nonsense", ""]


def test_the_message_to_edit_comes_back_into_the_input(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.script([Answer("a")], [Answer("b")])
    drafts = drafts_of(iter(["one\nmore", "/edit", "two", "/edit three"]), monkeypatch)
    cli("chat", "8b", stdin="")
    assert drafts == ["", "", "one\nmore", "", ""]


def test_a_refused_message_comes_back_into_the_input_and_a_begun_one_does_not(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.script([ContextError("too long")], [Answer("a"), RuntimeError("broken")])
    drafts = drafts_of(iter(["a long one", "another"]), monkeypatch)
    cli("chat", "8b", stdin="")
    assert drafts == ["", "a long one", ""]


def test_full_disk_keeps_the_conversation(cli: Any) -> None:
    cli.script([Answer("a")], [Answer("b")])
    result = cli("chat", "8b", stdin="x\n/save full.json\ny\n")
    assert "No space left" in result.stderr
    assert len(cli.model.asked[1][0]) == 3


def test_invalid_utf8_names_its_place_in_the_whole_input(cli: Any) -> None:
    cli.script([Answer("a")])
    result = cli("chat", "8b", stdin=b"hi\nna\xefve\n")
    assert result.exit_code == 1 and result.stdout == "a\n"
    assert "byte 0xef at offset 5" in result.stderr


def test_the_demo_is_named_as_what_it_is(cli: Any, state_home: Path) -> None:
    cli.script()
    result = cli("chat", stdin="")
    assert cli.opened == [("demo", None)]
    assert "small demonstration" in result.stderr and "qwen3-mlx chat 4b" in result.stderr
    cli("chat", "8b", stdin="")
    result = cli("chat", stdin="")
    assert cli.opened[-1] == ("8b", None) and "demonstration" not in result.stderr


def test_a_directory_is_remembered_by_its_full_path(
    cli: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    cli("chat", "./model", stdin="")
    monkeypatch.chdir("/")
    cli("chat", stdin="")
    assert cli.opened[-1] == (str(tmp_path / "model"), None)
    (tmp_path / "model").rmdir()
    cli("chat", stdin="")
    assert cli.opened[-1] == ("demo", None)


def test_progress_is_no_noise_in_a_pipe(cli: Any) -> None:
    cli.script([Prefill(5, 10), 0.6, Prefill(10, 10), Answer("a")])
    result = cli("chat", "8b", stdin="x\n")
    assert (result.stdout, result.stderr) == ("a\n", "")


def test_state_that_cannot_be_written_costs_nothing(cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("QWEN3_MLX_HOME", "/proc/nothing/here")
    cli.script([Answer("a")])
    assert cli("chat", "8b", stdin="x\n").stdout == "a\n"


@pytest.mark.parametrize("saved", [False, True])
def test_leaving_a_chat_that_is_not_kept_is_asked_twice(
    cli: Any, state_home: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """The one error was long ago: who leaves is told what they lose, unless they saved it."""
    state_home.mkdir()
    (state_home / "sessions").touch()  # no directory
    cli.script([Answer("a")], [Answer("b")], [Answer("c")])
    save = [f"/save {state_home}/mine"] if saved else []
    lines = iter(["one", "two", *save, "/quit", "three", "/quit", "/quit", "not read"])
    init = LineChat.__init__

    def watched(chat: LineChat, *arguments: Any, **named: Any) -> None:
        init(chat, *arguments, **named)
        chat.interactive = True

    monkeypatch.setattr(LineChat, "__init__", watched)
    monkeypatch.setattr(LineChat, "_reader", lambda self: Lines(self.screen))
    drafts = drafts_of(lines, monkeypatch)
    done = cli("chat", "8b", stdin="")
    asked = 0 if saved else 2
    assert done.stderr.count("to leave without it: /quit or Ctrl-D again") == asked
    assert done.stderr.count("can't be kept") == 1 + asked
    assert len(drafts) == (4 if saved else 6)
    if saved:
        assert journal.read(state_home / "mine").turns == 2
