"""Two chats on one conversation, in every order: what was shown is kept, and nobody waits.

A chat is read, taken, answered, left, answered again; beside it another does the same, or somebody
removes, saves over or exports the file. First every order of these steps; then, within them,
random orders of the calls to the operating system, each of which waits for its turn.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.chat import journal, journal_files
from qwen3_mlx.errors import SessionError
from qwen3_mlx.options import GenerationOptions
from tests.trust.turns import Interleaver

OPTIONS = GenerationOptions()


def turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": f"to {text}"}]


class Window:
    """A chat as the command line runs one: it resumes, keeps each turn, and may reopen."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.found: journal.SavedChat | None = None
        self.journal: journal.ChatJournal | None = None
        self.messages: list[dict[str, Any]] = []
        self.removed_other: set[Path] = set()

    def steps(self) -> list[Callable[[], None]]:
        return [self.read, self.resume, self.say, self.leave, self.say, self.leave]

    def read(self) -> None:
        try:
            self.found = journal.read(self.path)
        except SessionError:
            self.found = None  # removed before: nothing to resume

    def resume(self) -> None:
        if self.found is None:
            return
        kept = None
        with contextlib.suppress(SessionError):  # removed: this chat has it still
            self.found, kept = journal.take(self.found.path)
        self.messages = list(self.found.messages)
        new = journal_files.new_path(self.path.parent)
        self.journal = kept or journal.ChatJournal(new)

    def say(self) -> None:
        if self.journal is not None:
            self.messages = [*self.messages, *turn(f"{self.name}{len(self.messages)}")]
            self.journal.keep("demo", OPTIONS, self.messages)

    def leave(self) -> None:
        """Let go; one that goes on may find that the file is another's meanwhile."""
        if self.journal is not None:
            self.journal.close()

    def check(self) -> None:
        if self.journal is None:
            return
        kept = [json.dumps(message) for message in journal.read(self.journal.path).messages]
        shown = [json.dumps(message) for message in self.messages]
        assert kept[: len(shown)] == shown, (self.name, self.journal.path.name)


class Remover(Window):
    def steps(self) -> list[Callable[[], None]]:
        return [self.remove]

    def remove(self) -> None:
        try:
            journal_files.remove(self.path)
        except SessionError as error:
            assert "open in another chat" in str(error) or "can't be removed" in str(error)

    def check(self) -> None:
        pass


class Saver(Remover):
    def remove(self) -> None:
        """``/save`` onto a kept conversation: it must not take the file from a chat."""
        with contextlib.suppress(SessionError):
            saved = journal.read(self.path)
            journal.save(self.path, "demo", OPTIONS, saved.messages)


def begin(folder: Path, other: type[Window], one: type[Window] = Window) -> list[Window]:
    path = folder / "sessions" / "2026-01-01-000000-0000.jsonl"
    first = journal.ChatJournal(path)
    first.keep("demo", OPTIONS, turn("begin"))
    first.close()
    return [one(path, "a"), other(path, "b")]


def orders(counts: tuple[int, int]) -> Iterator[tuple[int, ...]]:
    for places in itertools.combinations(range(sum(counts)), counts[1]):
        yield tuple(int(i in places) for i in range(sum(counts)))


@pytest.mark.parametrize("other", [Window, Remover])
def test_every_order_of_steps(tmp_path: Path, other: type[Window]) -> None:
    """924 orders of two chats; 7 of a chat and one who removes its file."""
    sizes = (len(Window(tmp_path, "").steps()), len(other(tmp_path, "").steps()))
    for number, order in enumerate(orders(sizes)):
        windows = begin(tmp_path / str(number), other)
        waiting = [iter(window.steps()) for window in windows]
        removed = False
        for who in order:
            before = windows[0].path.exists()
            next(waiting[who])()
            removed |= before and not windows[0].path.exists()
        for window in windows:
            gone = removed and window.journal and not window.journal.path.exists()
            if not gone:  # removed when everybody had left it
                window.check()


class Staying(Window):
    """Never lets go: what it showed stays, whatever the other one does."""

    def steps(self) -> list[Callable[[], None]]:
        return [self.read, self.resume, self.say, self.leave, self.say]


@pytest.mark.parametrize("other", [Window, Saver, Remover])
def test_random_orders_of_system_calls(
    tmp_path: Path, other: type[Window], interleave: Interleaver
) -> None:
    for seed in range(100):
        windows = begin(tmp_path / str(seed), other, Staying if other is Remover else Window)
        first, second = (partial(everything, window) for window in windows)
        assert interleave(seed, first, second) == [], seed
        for window in windows:
            window.check()
            window.leave()


def everything(window: Window) -> None:
    for step in window.steps():
        step()
