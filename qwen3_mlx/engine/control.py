"""How another thread reaches a running turn."""

from __future__ import annotations

from typing import Literal

Interrupt = Literal["answer", "stop"]
"""``answer``: stop thinking and answer now; ``stop``: end the turn."""


class Control:
    """Carries another thread's wish to a running turn, which reads it once a token."""

    def __init__(self) -> None:
        self.wish: Interrupt | None = None

    def interrupt(self, kind: Interrupt) -> None:
        """Ask for an end of the thinking, or of the turn; a stop is never taken back."""
        if kind not in ("answer", "stop"):
            raise ValueError(f"interrupt takes 'answer' or 'stop', got {kind!r}")
        if self.wish != "stop":
            self.wish = kind

    @property
    def stopped(self) -> bool:
        """Whether the turn is to end."""
        return self.wish == "stop"
