"""Chats in a terminal of their own, killed at any moment, for tests.campaign: no turn is lost.

A turn counts as shown once the next one's answer has begun: before that it may be under way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qwen3_mlx.chat import journal
from tests.campaign_tool_chats import Terminal

MARKS = "①②③④⑤⑥"
"""A character for each answer: one cell, which no painting can split."""


class Talk(Terminal):
    """The chat with a model whose answer number n holds mark number n."""

    def __init__(self, home: Path, plain: bool) -> None:
        from tests.cli.tools_given import OPTIONS

        self.home, self.plain, self._seen, self._lines = home, plain, b"", 0
        home.mkdir(parents=True)
        script = home / "said.json"
        script.write_text(json.dumps([f"Behold {mark} and some words more." for mark in MARKS]))
        words = [sys.executable, "-m", "tests.cli.tools_chat", str(script), "chat", "demo"]
        self.launch([*words, *OPTIONS, *["--plain"] * plain])

    def shown(self, turn: int) -> bool:
        """Whether the answer of that turn, from 0, has begun."""
        return MARKS[turn].encode() in self.read()


def chats(plain: bool) -> Callable[[Path], Callable[[random.Random], None]]:
    """A campaign of chats that are killed in one of their turns."""

    def make(work: Path) -> Callable[[random.Random], None]:
        def run(rng: random.Random) -> None:
            chat = Talk(work / f"chat-{os.getpid()}-{rng.randrange(10**12)}", plain)
            try:
                _talk(chat, rng)
            finally:
                os.kill(chat.pid, signal.SIGKILL)
                chat.until(chat.gone, "its end")
                chat.hang_up()
            _check(chat)

        return run

    return make


def _talk(chat: Talk, rng: random.Random) -> None:
    for turn in range(rng.randint(2, len(MARKS))):
        chat.say(f"turn {turn}")
        chat.until(lambda turn=turn: chat.shown(turn), f"answer {turn}", "" if chat.plain else "\r")
    time.sleep(rng.random() ** 3)  # mostly within the turn, at times behind it


def _check(chat: Talk) -> None:
    begun = sum(chat.shown(turn) for turn in range(len(MARKS)))
    (file,) = (chat.home / "sessions").glob("*.jsonl")
    messages = journal.read(file).messages
    said = [one["content"] for one in messages if one["role"] == "assistant"]
    assert len(said) >= begun - 1, f"{begun} answers begun, {len(said)} kept"
    assert all(mark in text for mark, text in zip(MARKS, said, strict=False)), said
    saved, kept = journal.take(file)
    assert kept is not None and saved.messages == messages, "it can't be gone on with"
    kept.close()


CHATS = {"kill-plain": chats(True), "kill-screen": chats(False)}
