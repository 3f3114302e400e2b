"""Two threads whose calls to the operating system take turns, by a seeded coin."""

from __future__ import annotations

import fcntl
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

CALLS = (
    *((os, n) for n in ("open", "stat", "fstat", "ftruncate", "pwrite", "close", "replace")),
    *((os, n) for n in ("unlink", "remove", "rmdir", "mkdir", "chmod", "listdir", "scandir")),
    *((os, n) for n in ("utime", "rename")),
    (fcntl, "flock"),
)


class Turns:
    """Lets one of two threads make its next system call."""

    def __init__(self, seed: int) -> None:
        self.coin = random.Random(seed)
        self.condition = threading.Condition()
        self.running = {0, 1}
        self.whose = self.coin.choice([0, 1])
        self.local = threading.local()
        self.errors: list[tuple[int, BaseException]] = []

    def step(self) -> None:
        who = getattr(self.local, "who", None)
        if who is None:
            return
        with self.condition:
            self.whose = self.coin.choice(sorted(self.running))
            self.condition.notify_all()
            assert self.condition.wait_for(lambda: self.whose == who, timeout=60)

    def run(self, who: int, work: Callable[[], object]) -> None:
        self.local.who = who
        try:
            self.step()
            work()
        except BaseException as error:
            self.errors.append((who, error))
        finally:
            with self.condition:
                self.running.discard(who)
                self.whose = next(iter(self.running), who)
                self.condition.notify_all()


class Interleaver:
    """Runs two works at once, in the order that a seed says; `errors` are what they raised."""

    def __init__(self) -> None:
        self.turns: Turns | None = None

    def step(self) -> None:
        if self.turns is not None:
            self.turns.step()

    def __call__(
        self, seed: int, first: Callable[[], object], second: Callable[[], object]
    ) -> list[tuple[int, BaseException]]:
        self.turns = Turns(seed)
        works = enumerate((first, second))
        threads = [threading.Thread(target=self.turns.run, args=one) for one in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), seed
        return self.turns.errors


@pytest.fixture
def interleave(monkeypatch: pytest.MonkeyPatch) -> Interleaver:
    """Every call in `CALLS` waits for its turn; nothing is flushed, and nobody sleeps."""
    interleaver = Interleaver()
    for module, name in CALLS:
        monkeypatch.setattr(module, name, _stepping(getattr(module, name), interleaver))
    monkeypatch.setattr(os, "fsync", _stepping(lambda file: None, interleaver))
    return interleaver


def _stepping(function: Callable[..., Any], interleaver: Interleaver) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        interleaver.step()
        return function(*args, **named)

    return call
