"""The thread that loads models and generates, and the queue of its events.

One thread does both, because MLX ties work to the thread that began it. It never touches a widget:
events go into an `Inbox`, which the interface empties once per frame.
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
    """Progress of the prefill: `done` of `total` prompt tokens."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn failed."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Over:
    """The last news of a turn."""


News = LoopEvent | Reading | Failed | Over


class RunningTurn(Interruptible, Protocol):
    """A running turn, as a session's `send` returns it."""

    def close(self) -> None:
        """Abandon the turn."""


Begin = Callable[[Callable[[int, int], None]], RunningTurn]
"""Starts a turn; its argument is the callback for the prefill's progress."""


class Inbox:
    """A queue of news; `wake` is called for the first one after an empty `take`."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake, self._news = wake, deque[News]()
        self._lock, self._quiet = threading.Lock(), True

    def put(self, news: News) -> None:
        """Add one piece of news; called by the worker."""
        with self._lock:
            self._news.append(news)
            first, self._quiet = self._quiet, False
        if first:
            self._wake()

    def take(self) -> list[News]:
        """Remove and return all news. After an empty result the next `put` calls `wake`."""
        with self._lock:
            taken = list(self._news)
            self._news.clear()
            self._quiet = not taken
        return taken


class Running:
    """A turn that runs in the worker's thread."""

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
        """Whether the model is thinking."""
        return self._presses is not None and self._presses.thinking

    def press(self) -> None:
        """End the current thought, or else the turn."""
        with self._lock:
            self._stopped_early = True
            if self._presses is not None:
                self._presses.press()

    def stop(self) -> None:
        """End the turn, also during a thought."""
        with self._lock:
            self._stopped_early = True
            if self._presses is not None:
                self._presses.stop()

    def __call__(self) -> None:
        """Run the turn to its end; called by the worker."""
        turn: RunningTurn | None = None
        try:
            turn = self._begin(lambda done, total: self._inbox.put(Reading(done, total)))
            with self._lock:
                self._presses = InterruptPresses(turn, answer_first=True)
                if self._stopped_early:
                    self._presses.press()
            for event in self._presses.watch(turn):
                self._inbox.put(event)
        except Exception as error:  # no error may end the conversation
            self._inbox.put(Failed(error))
        finally:
            if turn is not None:
                turn.close()
            self.over.set()
            self._inbox.put(Over())


class Worker:
    """A daemon thread that runs jobs in order until the process ends.

    It must not end earlier: after a thread that used MLX has ended, the process sometimes aborts
    at exit (MLX 0.32).
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Callable[[], Any]) -> None:
        """Run `job` after the jobs before it. It must not raise."""
        self._jobs.put(job)

    def finish(self, seconds: float) -> None:
        """Wait for the jobs submitted so far, at most `seconds`."""
        done = threading.Event()
        self._jobs.put(done.set)
        if self._thread.is_alive():
            done.wait(seconds)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
