"""Signals during a turn ask the turn to stop; none raises an exception inside MLX."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Literal, Protocol

from qwen3_mlx.events import Thinking
from qwen3_mlx.tools.events import LoopEvent, ToolResult

ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a chat: a closed window's among them."""


class Interruptible(Protocol):
    """A running turn: iterable events, and `interrupt`, which a signal handler may call."""

    def __iter__(self) -> Iterator[LoopEvent]: ...

    def interrupt(self, kind: Literal["answer", "stop"]) -> None:
        """End the thought (``"answer"``) or the turn (``"stop"``)."""


class InterruptPresses:
    """Counts presses of Ctrl-C: the first one in a thought means "answer now", others "stop"."""

    def __init__(self, turn: Interruptible, answer_first: bool) -> None:
        self._turn, self._answer_first, self._again = turn, answer_first, answer_first
        self.thinking = False
        self.count = 0

    def press(self) -> None:
        """Handle one press of Ctrl-C."""
        self.count += 1
        cut = self._answer_first and self.thinking
        # Only once: a second press while the thought is being cut means "stop".
        self._answer_first = self._answer_first and not cut
        self._turn.interrupt("answer" if cut else "stop")

    def stop(self) -> None:
        """End the turn, also during a thought."""
        self._answer_first = False
        self.press()

    def watch(self, events: Iterable[LoopEvent]) -> Iterator[LoopEvent]:
        """Pass events on, and track whether the model is thinking.

        A tool's result resets the count: the presses before it have ended that call.
        """
        for event in events:
            self.thinking = isinstance(event, Thinking)
            if isinstance(event, ToolResult):
                self.count, self._answer_first = 0, self._again
            yield event


@contextmanager
def interrupts_turn(turn: Interruptible, *, answer_first: bool) -> Iterator[InterruptPresses]:
    """Inside the block Ctrl-C interrupts `turn`; with `answer_first`, first only its thought."""
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
def ends_after_turn(stop: Callable[[], object]) -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP call `stop`; after it they end the program.

    The program then exits with 128 + the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        stop()

    heard = [kind for kind in ENDS if signal.getsignal(kind) is signal.SIG_DFL]  # not under nohup
    for kind in heard:
        signal.signal(kind, handle)
    try:
        yield
    finally:
        for kind in heard:
            signal.signal(kind, signal.SIG_DFL)
        if came:
            raise SystemExit(128 + came[0])


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block Ctrl-C raises `KeyboardInterrupt`, even within `interrupts_turn`.

    So does what ends the program, within `ends_after_turn`: it waits for no answer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[signal.Signals, Callable[..., Any]] = {signal.SIGINT: signal.default_int_handler}
    for kind in ENDS:
        if callable(handle := signal.getsignal(kind)):
            handlers[kind] = partial(_then_raise, handle)
    before = {kind: signal.signal(kind, handler) for kind, handler in handlers.items()}
    try:
        yield
    finally:
        for kind, earlier in before.items():
            signal.signal(kind, earlier)


def _then_raise(handle: Callable[..., Any], number: int, frame: FrameType | None) -> None:
    handle(number, frame)
    raise KeyboardInterrupt
