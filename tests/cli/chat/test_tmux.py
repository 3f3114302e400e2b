"""The line chat in a real terminal (tmux): history, paste, Ctrl-C, resizing."""

from __future__ import annotations

import shutil
import time

import pytest

from qwen3_mlx.chat import journal
from tests.cli.tmux import Tmux

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


def test_a_conversation(tmux: Tmux) -> None:
    tmux.start("short", "chat", "--plain", "8b")
    tmux.prompt(1)
    tmux.keys("/hel", "Tab")
    tmux.until("> /help")
    tmux.keys("Enter")
    tmux.until("/retry")
    tmux.until("answer now; stop; clear")
    tmux.keys("What is 2 + 2?", "Enter")
    shown = tmux.until("answer tokens")
    assert "hm, two" in shown and "It is 4." in shown  # the bold of **4** is drawn, not its stars
    assert "1 thinking | 1 answer tokens | 20.0 tok/s" in shown
    tmux.keys("/budget 300", "Enter")
    tmux.until("fake [thinking, budget 300] >")
    tmux.keys("/no_think", "Enter")
    tmux.until("fake [not thinking] >")
    tmux.keys("/think hello", "Enter")
    tmux.until("fake [thinking, budget 300] >", 2)
    tmux.keys("/no_think hello", "Enter")
    tmux.until("fake [not thinking] >", 2)
    tmux.keys("/think", "Enter")
    tmux.until("fake [thinking, budget 300] >", 3)
    tmux.keys("C-d")
    tmux.until("exit code 0")


def remembered(tmux: Tmux) -> None:
    """A chat in which one message was sent: it is in the history."""
    tmux.start("short", "chat", "--plain", "8b")
    tmux.prompt(1)
    tmux.keys("remember me", "Enter")
    tmux.prompt(2)


def test_history_is_there_in_the_next_run(tmux: Tmux) -> None:
    remembered(tmux)
    tmux.keys("/quit", "Enter")
    tmux.until("exit code 0")
    tmux.start("short", "chat", "--plain", "8b", again=True)
    tmux.prompt(1)
    tmux.keys("Up")
    tmux.until("> /quit")
    tmux.keys("Up")
    tmux.until("> remember me")


def test_a_search_of_the_history_is_taken_or_left(tmux: Tmux) -> None:
    remembered(tmux)
    tmux.keys("C-r", "rem")
    tmux.shown("I-search backward: rem")
    tmux.keys("Enter")  # takes what was found into the input
    tmux.gone("I-search")
    tmux.until("> remember me", 2)
    tmux.keys("Enter")
    tmux.until("It is 4.", 2)
    tmux.prompt(3)
    tmux.keys("C-r", "rem")
    tmux.shown("I-search backward: rem")
    tmux.keys("C-c")
    tmux.gone("I-search")
    tmux.keys("C-c")
    tmux.prompt(4)
    tmux.keys("still heard", "Enter")
    tmux.until("It is 4.", 3)
    tmux.prompt(5)
    tmux.keys("C-d")
    tmux.until("exit code 0")


def test_pasted_lines_are_one_message(tmux: Tmux) -> None:
    tmux.start("short", "chat", "--plain", "8b")
    tmux.prompt(1)
    tmux("set-buffer", "first line\nsecond line\n\tthird line")
    tmux("paste-buffer", "-p")  # as a terminal pastes: bracketed
    tmux.until("third line")
    time.sleep(0.3)
    assert "It is 4." not in tmux.text() and "^J" not in tmux.text()
    tmux.keys("Enter")
    tmux.until("It is 4.")
    tmux.prompt(2)
    for keys in (["one"], ["M-Enter"], ["two"], ["Enter"]):
        tmux.keys(*keys)
        time.sleep(0.2)  # several lines at once would be a paste
    tmux.until("It is 4.", 2)
    tmux.prompt(3)
    history = (tmux.home / "history").read_text()
    assert "+first line\n+second line\n+\tthird line\n" in history and "+one\n+two\n" in history


def test_ctrl_c_clears_then_tells_how_to_leave(tmux: Tmux) -> None:
    tmux.start("short", "chat", "--plain", "8b")
    tmux.prompt(1)
    tmux.keys("half a line")
    tmux.shown("half a line")
    tmux.keys("C-c")
    tmux.gone("half a line")
    tmux.keys("C-c")
    tmux.prompt(2)
    assert "to leave" not in tmux.text()
    tmux.keys("C-c")
    tmux.until("to leave: /quit or Ctrl-D")
    tmux.prompt(3)
    tmux.keys("/quit", "Enter")
    tmux.until("exit code 0")


def test_answer_now_and_stop(tmux: Tmux) -> None:
    tmux.start("long-thought", "chat", "--plain", "8b")
    tmux.prompt(1)
    tmux.keys("one", "Enter")
    tmux.until("thought 3.")
    tmux.keys("C-c")
    tmux.until("The answer.")
    tmux.until("(cut by you)")
    tmux.prompt(2)
    tmux.keys("two", "Enter")
    tmux.until("word3")
    tmux.keys("C-c")
    shown = tmux.until("stopped by you")
    assert "word3" in shown
    tmux.prompt(3)


def test_progress_on_the_prompt_goes_before_the_answer_comes(tmux: Tmux) -> None:
    tmux.start("slow-prefill", "chat", "--plain", "8b")
    tmux.prompt(1)
    tmux.record()
    tmux.keys("one", "Enter")
    shown = tmux.until("At last")
    assert "reading the prompt" not in shown
    assert "reading the prompt: " in tmux.painted


def test_long_answers_are_whole_and_survive_resizing(tmux: Tmux) -> None:
    tmux.start("list", "chat", "--plain", "8b")
    tmux.prompt(1)
    tmux.keys("list", "Enter")
    shown = tmux.until("answer tokens")
    assert [n for n in range(60) if shown.count(f"item {n}\n") != 1] == []
    tmux.prompt(2)
    tmux("resize-window", "-x", "50", "-y", "12")
    tmux.prompt(2)
    tmux.keys("again, please", "Enter")
    shown = tmux.until("the end", 2)
    tmux.until("answer tokens", 2)
    assert shown.split("again, please")[1].count("item 59") == 1


def test_with_the_bundled_model(tmux: Tmux) -> None:
    tmux.start(None, "chat", "--plain", "--seed", "1")
    tmux.until("demo is a small demonstration")
    tmux.until("demo [thinking] >")
    time.sleep(0.3)
    tmux.keys("What is 17 * 23?", "Enter")
    tmux.until("demo [thinking] >", 2)
    tmux.keys("/budget 8", "Enter")
    tmux.until("demo [thinking, budget 8] >")
    tmux.keys("What is 17 * 23?", "Enter")
    tmux.until("8/8 thinking")
    tmux.until("(cut by the budget)")
    tmux.until("demo [thinking, budget 8] >", 2)
    tmux.keys("/no_think", "Enter")
    tmux.until("demo [not thinking] >")
    tmux.keys("Hello!", "Enter")
    tmux.until("answer tokens", 3)
    tmux.until("demo [not thinking] >", 2)
    tmux.keys("/save", "Enter")
    tmux.until("saved: ")
    tmux.until("demo [not thinking] >", 3)
    tmux.keys("C-d")
    tmux.until("exit code 0")
    (saved,) = (tmux.home / "sessions").glob("*.jsonl")
    assert journal.read(saved).turns == 3
