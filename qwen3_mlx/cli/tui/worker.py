"""The thread that loads models and generates, and the way its events take to the screen.

One thread for both, because MLX ties work to the thread that began it. It never touches a widget:
events go into an `Inbox`, which the interface empties some thirty times a second.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from qwen3_mlx.cli.terminal.interrupt import Interruptible, InterruptPresses
from qwen3_mlx.tools.events import LoopEvent


@dataclass(frozen=True, slots=True)
class Reading:
    """Prompt tokens read, and how many there are to read."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn broke off."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Over:
    """The turn's thread is done with it; nothing follows."""


News = LoopEvent | Reading | Failed | Over


class RunningTurn(Interruptible, Protocol):
    """A running turn, as a session's `send` returns it."""

    def close(self) -> None:
        """Abandon the turn."""


Begin = Callable[[Callable[[int, int], None]], RunningTurn]
"""Starts a turn, given where to report the progress on its prompt."""


class Inbox:
    """News from the worker; `wake` is called when the first piece since the last `take` comes."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake, self._news = wake, deque[News]()
        self._lock, self._quiet = threading.Lock(), True

    def put(self, news: News) -> None:
        """Add one piece; called by the worker."""
        with self._lock:
            self._news.append(news)
            first, self._quiet = self._quiet, False
        if first:
            self._wake()

    def take(self) -> list[News]:
        """All there is. After an empty answer the next piece wakes the interface again."""
        with self._lock:
            taken = list(self._news)
            self._news.clear()
            self._quiet = not taken
        return taken


class Running:
    """A turn under way in the worker's thread."""

    def __init__(self, begin: Begin, inbox: Inbox) -> None:
        self._begin, self._inbox = begin, inbox
        self._presses: InterruptPresses | None = None
        self._lock, self._stopped_early = threading.Lock(), False
        self.over = threading.Event()

    @property
    def presses(self) -> int:
        """Presses of Esc and Ctrl-C in this turn."""
        return self._presses.count if self._presses else int(self._stopped_early)

    @property
    def thinking(self) -> bool:
        """Whether the model is in its thought."""
        return self._presses is not None and self._presses.thinking

    def press(self) -> None:
        """End the thought if there is one under way, else the turn."""
        with self._lock:
            self._stopped_early = True
            if self._presses is not None:
                self._presses.press()

    def stop(self) -> None:
        """End the turn, thought or not."""
        with self._lock:
            self._stopped_early = True
            if self._presses is not None:
                self._presses.stop()

    def __call__(self) -> None:
        """Run it to its end; called by the worker."""
        turn: RunningTurn | None = None
        try:
            turn = self._begin(lambda done, total: self._inbox.put(Reading(done, total)))
            with self._lock:
                self._presses = InterruptPresses(turn, answer_first=True)
                if self._stopped_early:
                    self._presses.press()
            for event in self._presses.watch(turn):
                self._inbox.put(event)
        except Exception as error:  # whatever it is, the conversation goes on
            self._inbox.put(Failed(error))
        finally:
            if turn is not None:
                turn.close()
            self.over.set()
            self._inbox.put(Over())


class Worker:
    """One thread that runs jobs in order, for as long as the process lives.

    It doesn't keep the process alive, but it must not end before it either: where a thread that
    used MLX has ended, the process now and then aborts at its exit (MLX 0.32).
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Callable[[], Any]) -> None:
        """Run `job` after those before it. It must not raise."""
        self._jobs.put(job)

    def finish(self, seconds: float) -> None:
        """Wait for the jobs submitted so far, but no longer than `seconds`."""
        done = threading.Event()
        self._jobs.put(done.set)
        if self._thread.is_alive():
            done.wait(seconds)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
