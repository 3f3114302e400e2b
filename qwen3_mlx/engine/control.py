"""Lets another thread interrupt a running turn."""

from __future__ import annotations

from typing import Literal

Interrupt = Literal["answer", "stop"]
"""``answer``: stop thinking and answer now; ``stop``: end the turn."""


class Control:
    """Carries another thread's request to a running turn, which reads it after every token.

    A value for each kind, as nothing that is done about the one may undo the other.
    """

    def __init__(self) -> None:
        self._answer = self._stop = False

    @property
    def wish(self) -> Interrupt | None:
        """What is requested now; a stop comes first."""
        if self._stop:
            return "stop"
        return "answer" if self._answer else None

    def interrupt(self, kind: Interrupt) -> None:
        """Request the end of the thinking, or of the turn; a stop can't be withdrawn.

        Raises `ValueError` for another `kind`.
        """
        if kind not in ("answer", "stop"):
            raise ValueError(f"interrupt takes 'answer' or 'stop', got {kind!r}")
        if kind == "stop":
            self._stop = True
        else:
            self._answer = True

    def answers(self) -> None:
        """The turn answers now, so the request for it is done."""
        self._answer = False

    @property
    def stopped(self) -> bool:
        """Whether the turn was asked to end."""
        return self._stop
