"""Lets another thread interrupt a running turn."""

from __future__ import annotations

from typing import Literal

Interrupt = Literal["answer", "stop"]
"""``answer``: stop thinking and answer now; ``stop``: end the turn."""


class Control:
    """Carries another thread's request to a running turn, which reads it after every token."""

    def __init__(self) -> None:
        self.wish: Interrupt | None = None

    def interrupt(self, kind: Interrupt) -> None:
        """Request the end of the thinking, or of the turn; a stop can't be withdrawn.

        Raises `ValueError` for another `kind`.
        """
        if kind not in ("answer", "stop"):
            raise ValueError(f"interrupt takes 'answer' or 'stop', got {kind!r}")
        if self.wish != "stop":
            self.wish = kind

    @property
    def stopped(self) -> bool:
        """Whether the turn was asked to end."""
        return self.wish == "stop"
