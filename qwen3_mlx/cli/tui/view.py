"""The interface through which the controller uses the app."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from qwen3_mlx.cli.tui.consent_dialog import Question
from qwen3_mlx.cli.tui.turn_view import TurnView
from qwen3_mlx.cli.tui.worker import Begin


class View(Protocol):
    """The app's methods that the controller calls."""

    def note(self, text: str) -> None:
        """Add a notice to the transcript."""

    def fail(self, error: BaseException, *, is_shown: bool = False) -> None:
        """Record an error for ``--debug``, and show it unless the transcript already does."""

    def show_messages(self, messages: list[dict[str, Any]]) -> None:
        """Replace the transcript by these messages."""

    def follow(self) -> None:
        """Scroll to the end and follow it."""

    def show_pending(self, texts: list[str]) -> None:
        """List the queued texts."""

    def show_status(self) -> None:
        """Update the status row."""

    def put_in_input(self, text: str) -> None:
        """Insert `text` above the input's text."""

    def start_turn(self, begin: Begin, message: str) -> TurnView:
        """Run a turn in the worker and show it."""

    def ask(self, question: Question[Any], answer: Callable[[Any], None]) -> None:
        """Show a question above the chat, and call `answer` with the user's answer."""

    def call_later(self, callback: Callable[..., Any], *args: Any) -> bool:
        """Call `callback` in the interface's thread; thread-safe."""

    def suspend(self) -> AbstractContextManager[None]:
        """Inside the block the terminal is in its normal mode."""

    def leave(self) -> None:
        """End the program; ask first if the chat isn't on the disk."""
