"""Ctrl-C while a model speaks: a wish the turn hears, never an exception inside MLX."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal, Protocol

from qwen3_mlx.events import Thinking
from qwen3_mlx.tools.events import LoopEvent, ToolResult


class Interruptible(Protocol):
    """A running turn: iterable events, and `interrupt`, which may come from a signal handler."""

    def __iter__(self) -> Iterator[LoopEvent]: ...

    def interrupt(self, kind: Literal["answer", "stop"]) -> None:
        """End the thought, or the turn."""


class InterruptPresses:
    """What the next Ctrl-C means: in a thought "answer now", anywhere else "stop"."""

    def __init__(self, turn: Interruptible, answer_first: bool) -> None:
        self._turn, self._answer_first, self._again = turn, answer_first, answer_first
        self.thinking = False
        self.count = 0

    def press(self) -> None:
        """Ctrl-C was pressed."""
        self.count += 1
        cut = self._answer_first and self.thinking
        # once only: who presses again while the cut is under way wants to stop
        self._answer_first = self._answer_first and not cut
        self._turn.interrupt("answer" if cut else "stop")

    def stop(self) -> None:
        """End the turn, whatever it is at."""
        self._answer_first = False
        self.press()

    def watch(self, events: Iterable[LoopEvent]) -> Iterator[LoopEvent]:
        """Pass events on, keeping track of whether the model is thinking.

        Behind a tool's result the presses count anew: those before it have ended that call.
        """
        for event in events:
            self.thinking = isinstance(event, Thinking)
            if isinstance(event, ToolResult):
                self.count, self._answer_first = 0, self._again
            yield event


@contextmanager
def interrupts_turn(turn: Interruptible, *, answer_first: bool) -> Iterator[InterruptPresses]:
    """Within, Ctrl-C interrupts `turn`; with `answer_first` the first one only ends its thought."""
    presses = InterruptPresses(turn, answer_first)
    if threading.current_thread() is not threading.main_thread():
        yield presses  # signals reach the main thread only
        return

    def handle(_signal: int, _frame: FrameType | None) -> Any:
        presses.press()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, Ctrl-C raises `KeyboardInterrupt`, also inside `interrupts_turn`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
