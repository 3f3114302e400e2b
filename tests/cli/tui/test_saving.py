"""The full-screen chat and the disk: killed, ended, without a terminal, private; with the demo."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.chat import journal, journal_files
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.hub import resolve
from tests.cli.tmux import PATIENCE_S, ROOT, Tmux, pid
from tests.cli.tui.pilot import run_chat
from tests.fakes import Answer, FakeModel

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


def sessions(home: Path, *arguments: str) -> str:
    """What ``qwen3-mlx sessions`` prints."""
    code = "from qwen3_mlx.cli import main; main()"
    env = os.environ | {"QWEN3_MLX_HOME": str(home)}
    command = [sys.executable, "-c", code, "sessions", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "") or arguments[0] == "rm", done.stderr
    return done.stdout


def roles(home: Path) -> list[list[str]]:
    files = journal_files.all_in(home / "sessions")
    return [[message["role"] for message in journal.read(file).messages] for file in files]


@needs_tmux
@pytest.mark.slow
def test_kill_9_in_a_turn_then_resume(tmux: Tmux, tmp_path: Path) -> None:
    """The demo; another model in the middle; killed while it thinks; then all that came before."""
    other = shutil.copytree(resolve.resolve("demo"), tmp_path / "other")
    tmux.start(None, "chat", "demo", "--seed", "1", "--no-think")
    tmux.shown("demo │ not thinking")
    tmux.keys("What is 17 * 23?", "Enter")
    tmux.shown("391")
    tmux.keys(f"/model {other}", "Enter")
    tmux.shown("from now on: other")
    tmux.keys("What is 31 * 77?", "Enter")
    tmux.shown("2387")
    assert "from now on: other" in tmux.text() and "391" in tmux.text()
    tmux.keys("/quit", "Enter")
    tmux.shown("exit code 0")
    assert roles(tmux.home) == [["user", "assistant"] * 2]

    tmux.start(None, "chat", "--resume", "--think", again=True)
    tmux.shown("2 turns, 'What is 17 * 23?'")
    tmux.shown("other │ thinking")
    tmux.keys("What is 64 * 58?", "Enter")
    tmux.shown("› What is 64 * 58?")
    os.kill(pid(tmux), signal.SIGKILL)
    tmux.shown("exit code 137")
    (left,) = roles(tmux.home)
    # three turns only where the killing came too late
    assert left in (["user", "assistant"] * 2, ["user", "assistant"] * 3)
    turns = len(left) // 2

    tmux.start(None, "chat", "--resume", again=True)
    tmux.shown(f"{turns} turns, ")
    screen = tmux.shown("other │")
    for text in ("› What is 17 * 23?", "391", "› What is 31 * 77?", "2387", f"{turns} turns"):
        assert text in screen
    assert ("64 * 58" in screen) == (turns == 3)
    tmux.keys("C-d")
    tmux.shown("exit code 0")

    (file,) = journal_files.all_in(tmux.home / "sessions")
    listed = sessions(tmux.home, "list")
    assert file.stem in listed and f"{turns} turns" in listed and "What is 17 * 23?" in listed
    shown = sessions(tmux.home, "show", file.stem)
    assert "## User\n\nWhat is 31 * 77?" in shown
    record = json.loads(sessions(tmux.home, "export", "json"))
    assert [m["role"] for m in record["messages"]] == left
    assert "391" in sessions(tmux.home, "export", "md")
    sessions(tmux.home, "rm", file.stem)
    assert sessions(tmux.home, "list") == ""


class Lost:
    """A chat on a terminal that is not its controlling one: no signal comes when it goes."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "QWEN3_MLX_HOME": str(home)},
        )
        os.close(slave)

    def until(self, text: str) -> None:
        seen, end = b"", time.monotonic() + PATIENCE_S
        while text.encode() not in seen:
            assert time.monotonic() < end, seen
            seen += os.read(self.master, 1 << 16)

    def end(self) -> int:
        """Wait for its end, reading what it still writes; returns the exit code."""
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, "the chat lives on"
            with contextlib.suppress(OSError):
                if select.select([self.master], [], [], 0.05)[0]:
                    os.read(self.master, 1 << 16)
        return self.process.returncode


@pytest.mark.parametrize(
    ("gone", "options"),
    [
        *[("unnoticed", []), ("SIGHUP", []), ("SIGTERM", [])],
        *[("SIGHUP", ["--plain"]), ("SIGTERM", ["--plain"])],
    ],
)
def test_what_was_said_is_kept_when_the_terminal_goes(
    state_home: Path, gone: str, options: list[str]
) -> None:
    chat = Lost(state_home, "long-thought", "chat", "demo", *options)
    try:
        chat.until("fake")
        os.write(chat.master, b"one\r")
        chat.until("thought 3")
        if gone == "unnoticed":
            os.close(chat.master)
        else:
            chat.process.send_signal(getattr(signal, gone))
        assert chat.end() == (143 if gone == "SIGTERM" else 129)
    finally:
        chat.process.kill()
        chat.process.wait()
        if gone != "unnoticed":
            os.close(chat.master)
    (one,) = (journal.read(file) for file in journal_files.all_in(state_home / "sessions"))
    assert one.can_append and "thought 3" in one.messages[1]["reasoning_content"]


@pytest.mark.parametrize("second", ["keep", "close"])
def test_a_lost_terminal_s_thread_waits_for_the_line_being_written(
    state_home: Path, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends when that thread has kept the chat: half a line was all that was left."""
    path = state_home / "sessions" / "a.jsonl"
    model: Any = FakeModel([])
    chat = Conversation(model, model.session(), journal=journal.ChatJournal(path))
    chat.session.messages = [{"role": "user", "content": "one"}]
    writing, cut, ended = threading.Event(), os.ftruncate, threading.Event()

    def slowly(file: int, size: int) -> None:
        if not writing.is_set():
            writing.set()
            time.sleep(0.3)
            ended.set()
        cut(file, size)

    monkeypatch.setattr(os, "ftruncate", slowly)
    first = threading.Thread(target=chat.keep)
    first.start()
    assert writing.wait(10)
    getattr(chat, second)()
    assert ended.is_set() and [m["content"] for m in journal.read(path).messages] == ["one"]
    first.join()
    assert len(journal_files.all_in(path.parent)) == 1


async def test_leaving_in_a_turn_keeps_what_was_said(state_home: Path) -> None:
    path = state_home / "sessions" / "a.jsonl"

    def prepare(chat: Any) -> list[str]:
        chat.journal = journal.ChatJournal(path)
        return []

    async with run_chat(
        [step for n in range(2000) for step in (Answer(f"word{n} "), 0.05)], prepare=prepare
    ) as chat:
        await chat.type("one")
        await chat.until("word3")
        await chat.type("/quit")
    assert "word3" in journal.read(path).messages[1]["content"]


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@needs_tmux
def test_a_private_chat_leaves_nothing(tmux: Tmux, tmp_path: Path) -> None:
    (tmp_path / "system").write_text("Be brief. " * 400)
    tmux.start(None, "chat", "demo", "--no-save", "--no-think", "--system-file", "system")
    tmux.shown("error: ")  # relative to where it runs
    tmux.start(
        None, "chat", "demo", "--no-save", "--system-file", str(tmp_path / "system"), again=True
    )
    tmux.shown("this chat is not kept")
    tmux.keys("Hello!", "Enter")
    tmux.shown("› Hello!")
    tmux.keys("/tokens", "Enter")
    tmux.shown("this chat generated")
    tmux.keys("/quit", "Enter")
    tmux.shown("exit code 0")
    assert [file for file in files(tmux.home) if not file.startswith(("tmux", "system"))] == []


def test_a_private_chat_by_lines(cli: Any, state_home: Path) -> None:
    cli.script([Answer("a")], [Answer("b")])
    result = cli("chat", "8b", "--no-save", "--system", "S", stdin="x\n")
    assert result.stdout == "a\n" and "not kept" in result.stderr
    assert not state_home.exists()
    cli("chat", "8b", stdin="x\n")
    before = files(state_home)
    assert before
    content = (state_home / before[0]).read_bytes(), (state_home / before[-1]).read_bytes()
    cli.script([Answer("c")])
    result = cli("chat", "--resume", "--no-save", stdin="y\n")
    assert [m["content"] for m in cli.model.asked[0][0]] == ["x", "b", "y"]
    assert (files(state_home), content) == (
        before,
        ((state_home / before[0]).read_bytes(), (state_home / before[-1]).read_bytes()),
    )


@needs_tmux
def test_debug_prints_the_traceback_after_leaving(tmux: Tmux) -> None:
    tmux.start("bug", "chat", "demo", "--debug", size=(120, 40))
    tmux.shown("fake │ thinking")
    tmux.keys("one", "Enter")
    screen = tmux.shown("error: RuntimeError: boom")
    assert "Traceback" not in screen and "half" in screen
    tmux.keys("/budget x", "Enter")
    tmux.shown("error: /budget")
    tmux.keys("/quit", "Enter")
    screen = tmux.shown("exit code 0")
    assert screen.count("Traceback") == 2 and "RuntimeError: boom" in screen
    assert "OptionError: /budget" in screen


@pytest.mark.parametrize("keys", [["ctrl+d"], ["/", "q", "u", "i", "t", "enter"]])
async def test_leaving_a_chat_that_is_not_kept_asks_first(
    keys: list[str], state_home: Path
) -> None:
    """The one error may be long ago; once there is room again, nothing is asked."""
    state_home.mkdir()
    (state_home / "sessions").touch()  # no directory
    kept = journal.ChatJournal(state_home / "sessions" / "one.jsonl")

    def prepare(chat: Conversation) -> list[str]:
        chat.journal = kept
        return []

    async with run_chat([Answer("a")], prepare=prepare) as chat:
        await chat.type("one")
        await chat.until("can't be kept")
        await chat.press(*keys)
        await chat.until("Leave the chat?")
        assert chat.seen.count("can't be kept") >= 1 and "--no-save" in chat.seen
        await chat.press("escape")
        await chat.until(lambda: "Leave the chat?" not in chat.seen)
        (state_home / "sessions").unlink()
        await chat.press(*keys)
        await chat.until(lambda: not chat.app.is_running)
    assert [one.turns for one in map(journal.read, (state_home / "sessions").iterdir())] == [1]
