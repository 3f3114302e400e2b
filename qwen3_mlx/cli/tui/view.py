"""The screen as the controller uses it, whatever draws it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from qwen3_mlx.cli.tui.consent_dialog import Question
from qwen3_mlx.cli.tui.turn_view import TurnView
from qwen3_mlx.cli.tui.worker import Begin


class View(Protocol):
    """What a controller asks of a screen."""

    def note(self, text: str) -> None:
        """Add a notice to the transcript."""

    def fail(self, error: BaseException, *, is_shown: bool = False) -> None:
        """Keep an error for ``--debug``, and show it unless the transcript does already."""

    def show_messages(self, messages: list[dict[str, Any]]) -> None:
        """Replace the transcript by these messages."""

    def follow(self) -> None:
        """Scroll to the end, and stay there."""

    def show_pending(self, texts: list[str]) -> None:
        """List the texts that wait."""

    def show_status(self) -> None:
        """Bring the last row up to date."""

    def put_in_input(self, text: str) -> None:
        """Put `text` into the input, above the text in it."""

    def start_turn(self, begin: Begin, message: str) -> TurnView:
        """Run a turn in the worker, and paint it."""

    def ask(self, question: Question[Any], answer: Callable[[Any], None]) -> None:
        """Show a question above the chat, and pass on what the person answers."""

    def call_later(self, callback: Callable[..., Any], *args: Any) -> bool:
        """Call `callback` in the interface's thread; any thread may ask for it."""

    def suspend(self) -> AbstractContextManager[None]:
        """Within, the terminal is as it was before the chat."""

    def exit(self, result: int) -> None:
        """End the program with an exit code."""
