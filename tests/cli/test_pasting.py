"""Pasting into both chats, in a real terminal (tmux): nothing is sent before Enter is pressed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from qwen3_mlx.chat import journal
from qwen3_mlx.cli.terminal.paste import OPEN_S
from tests.cli.tmux import PATIENCE_S, Tmux, pid
from tests.threads import at_once

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

CHATS: dict[str, list[str]] = {"full-screen": [], "line": ["--plain"]}
TEXTS = {
    "a coloured line": ("alpha \x1b[31mred\x1b[0m beta\n", "alpha red beta"),
    "several lines": (
        "alpha \x1b[31mred\x1b[0m beta\nmiddle\x1b\n\tomega\n",
        "alpha red beta\nmiddle\n\tomega",
    ),
    "lines that look like commands": ("first\n/clear\n/quit\nlast\n", "first\n/clear\n/quit\nlast"),
    "the mark of a paste's end": ("alpha\x1b[201~\nbeta\x1b[200~\nomega\n", "alpha\nbeta\nomega"),
    "keys": ("alpha\x03\x04\x1b[A\nbeta\x1b[13u omega\n", "alpha\nbeta omega"),
}


def start(tmux: Tmux, chat: str) -> None:
    tmux.start("short", "chat", *CHATS[chat], "demo")
    tmux.shown("fake [thinking] >" if chat == "line" else "fake │ thinking")
    time.sleep(0.3)


def paste(tmux: Tmux, text: str, *options: str) -> None:
    file = tmux.home / "pasted"
    file.write_text(text)
    tmux("load-buffer", str(file))
    tmux("paste-buffer", *options)


def sent(tmux: Tmux) -> list[str]:
    """The messages of the conversation that is kept, without empty lines at their ends."""
    paths = (tmux.home / "sessions").glob("*.jsonl")
    files = [journal.read(path) for path in paths if path.stat().st_size]  # written a moment later
    said = [message for file in files for message in file.messages if message["role"] == "user"]
    return [message["content"].rstrip("\n") for message in said]


def is_pasted(tmux: Tmux, chat: str, is_bracketed: bool) -> None:
    """One terminal: each text is pasted, waits, and is sent by Enter."""
    start(tmux, chat)
    messages = [text for _, text in TEXTS.values()]
    for count, (pasted, text) in enumerate(TEXTS.values()):
        paste(tmux, pasted, *(["-p"] if is_bracketed else []))
        tmux.shown(text.split()[-1])
        time.sleep(OPEN_S + 0.3)  # a mark of a beginning has it wait for the end
        assert sent(tmux) == messages[:count]
        tmux.keys("Enter")
        end = time.monotonic() + PATIENCE_S
        while len(sent(tmux)) == count:
            assert time.monotonic() < end, tmux.text()
            time.sleep(0.05)
        time.sleep(0.3)
    assert sent(tmux) == messages


def test_a_paste_sends_nothing_and_arrives_whole(tmp_path: Path) -> None:
    """Bracketed and as typed, in both chats: four terminals at once, as nearly all is waiting."""
    ways = [(chat, is_bracketed) for chat in CHATS for is_bracketed in (True, False)]
    terminals = [Tmux(tmp_path / str(index)) for index in range(len(ways))]  # sockets: short paths
    for terminal in terminals:
        terminal.home.mkdir()
    try:
        acts = [
            partial(is_pasted, *each)
            for each in zip(terminals, *zip(*ways, strict=True), strict=True)
        ]
        found = at_once(*acts, seconds=4 * PATIENCE_S)
    finally:
        for terminal in terminals:
            terminal.kill()
    assert dict(zip(ways, found, strict=True)) == dict.fromkeys(ways)


@pytest.mark.parametrize("chat", CHATS)
def test_a_line_typed_while_the_machine_is_busy_is_sent(tmux: Tmux, chat: str) -> None:
    """Its letters and its Enter are read at once, as a paste is."""
    start(tmux, chat)
    process = pid(tmux)
    os.kill(process, signal.SIGSTOP)
    try:
        for key in [*"What?", "Enter"]:
            tmux.keys(key)
    finally:
        os.kill(process, signal.SIGCONT)
    tmux.shown("It is 4.")


def test_lines_typed_while_the_line_chat_answers_are_sent_and_a_paste_is_not(tmux: Tmux) -> None:
    tmux.start("slow-prefill", "chat", "--plain", "demo")
    tmux.prompt(1)
    tmux.keys("one", "Enter")
    tmux.until("At last.")
    tmux.keys("/budget 7", "Enter", "/budget 8", "Enter")
    paste(tmux, "alpha\nomega\n", "-p")
    tmux.until("at most 8 tokens")
    time.sleep(0.5)
    assert "at most 7 tokens" in tmux.text()
    assert tmux.text().rstrip().endswith("> alpha\nomega")
