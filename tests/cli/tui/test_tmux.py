"""The full-screen chat in a real terminal (tmux): keys, streaming, resizing, paste, the way out."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time

import pytest

from qwen3_mlx.chat import journal
from qwen3_mlx.errors import SessionError
from tests.cli.tmux import PATIENCE_S, Tmux, pid

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def kept(tmux: Tmux, turns: int) -> None:
    """Wait until so many turns are over: each is kept on the disk at its end."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(SessionError):  # made, and not yet written
            files = [journal.read(path) for path in (tmux.home / "sessions").glob("*.jsonl")]
            if [m["role"] for file in files for m in file.messages].count("assistant") == turns:
                return
        assert time.monotonic() < end, f"{turns} turns are not kept yet:\n{tmux.text()}"
        time.sleep(0.05)


def test_a_conversation_with_the_demo(tmux: Tmux) -> None:
    tmux.start(None, "chat", "--seed", "1")
    tmux.shown("demo is a small demonstration")
    tmux.shown("demo │ thinking")
    tmux.record()
    tmux.keys("What is 17 * 23?", "Enter")
    tmux.shown("391")
    tmux.shown("▸ thought")
    assert "▾ thinking" in tmux.painted
    tmux.keys("/budget 8", "Enter")
    tmux.shown("at most 8 tokens")
    tmux.keys("What is 31 * 77?", "Enter")
    tmux.shown("✂ cut by the budget")
    tmux.shown("8/8 tokens")
    tmux.keys("C-t")
    tmux.shown("│ not thinking │")
    tmux("resize-window", "-x", "50", "-y", "12")
    tmux.keys("Hello!", "Enter")
    tmux.shown("› Hello!")
    tmux.keys("M-Up")
    tmux.shown("budget 64")
    tmux("resize-window", "-x", "100", "-y", "30")
    tmux.shown("What is 17 * 23?")
    kept(tmux, 3)
    tmux.keys("C-d")
    tmux.shown("exit code 0")


def test_the_screen_has_the_terminals_size_whatever_the_variables_say(tmux: Tmux) -> None:
    tmux.start("short", "chat", "demo", size=(60, 14))
    tmux.shown("fake │ thinking")
    assert "fake │ thinking" in tmux.text().splitlines()[-1]
    tmux("resize-window", "-x", "50", "-y", "11")
    tmux.gone("─" * 60)
    screen = tmux.shown("fake │ thinking").splitlines()
    assert len(screen) == 11 and "fake │ thinking" in screen[-1]
    assert max(map(len, screen)) == 50, "rows that are too long would be joined here"


def test_answer_now_stop_and_leave(tmux: Tmux) -> None:
    tmux.start("long-thought", "chat", "demo")
    tmux.shown("fake │ thinking")
    tmux.keys("one", "Enter")
    tmux.shown("thought 3.")
    tmux.keys("C-c")
    tmux.shown("The answer.")
    tmux.shown("cut by you")
    tmux.keys("two", "Enter")
    tmux.shown("word3")
    tmux.keys("Escape")
    tmux.shown("stopped by you")
    kept(tmux, 2)
    tmux.keys("C-c")
    tmux.shown("Leave the chat?")
    tmux.keys("C-c")
    tmux.shown("exit code 0")


def test_pasting_5000_lines_and_copying(tmux: Tmux) -> None:
    tmux.start("short", "chat", "demo")
    tmux.shown("fake │ thinking")
    paste = tmux.home / "paste"
    paste.write_text("\n".join(f"line {n}" for n in range(5000)))
    tmux("load-buffer", str(paste))
    tmux("paste-buffer", "-p")
    tmux.shown("line 4999")
    tmux.keys("Enter")
    tmux.shown("… 4,988 more lines")
    tmux.shown("It is 4.")
    tmux("set-option", "-s", "set-clipboard", "on")
    tmux.keys("C-o")
    tmux.shown("copied the answer")
    assert tmux("show-buffer") == "It is **4**."


def test_control_sequences_of_the_model_do_nothing(tmux: Tmux) -> None:
    tmux.start("escapes", "chat", "demo", "--show-thinking", "always")
    tmux.shown("fake │ thinking")
    tmux.keys("go", "Enter")
    tmux.shown("c]0;ownedd31m")
    tmux.shown("│ a[2Jb")
    assert "owned" not in tmux("display-message", "-p", "#{pane_title}")


def test_a_lost_terminal_ends_the_chat(tmux: Tmux) -> None:
    tmux.start("long-thought", "chat", "demo")
    tmux.shown("fake │ thinking")
    tmux.keys("one", "Enter")
    tmux.shown("thought 3.")
    process = pid(tmux)
    tmux("kill-server")
    end = time.monotonic() + PATIENCE_S
    while not gone(process):
        assert time.monotonic() < end, "the chat lives on without a terminal"
        time.sleep(0.05)


def test_a_signal_to_end_restores_the_terminal(tmux: Tmux) -> None:
    tmux.start("short", "chat", "demo")
    tmux.shown("fake │ thinking")
    os.kill(pid(tmux), signal.SIGTERM)
    screen = tmux.shown("exit code 143")
    assert "fake │" not in screen


def test_text_typed_before_the_chat_has_drawn_itself_is_sent(tmux: Tmux) -> None:
    tmux.start("short", "chat", "demo")
    tmux.keys("What is 2 + 2?", "Enter", "/budget 7", "Enter", "and m")
    tmux.shown("at most 7 tokens")
    tmux.keys("ore")
    screen = tmux.shown("\n and more")
    assert "› What is 2 + 2?" in screen and "It is 4." in screen
    tmux.keys("C-c", "C-d")
    tmux.shown("exit code 0")


def test_a_small_terminal_gets_the_line_mode(tmux: Tmux) -> None:
    tmux.start("short", "chat", "demo", size=(39, 24))
    tmux.shown("[thinking] >")


def test_the_chat_goes_on_after_a_download_that_fails(
    tmux: Tmux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmux.home / "hub"))
    tmux.start("short", "chat", "demo")
    tmux.shown("fake │ thinking")
    tmux.keys("/model 0.6b", "Enter")
    tmux.shown("error: ")
    tmux.shown("fake │ thinking")
    tmux.keys("hello", "Enter")
    tmux.shown("It is 4.")
