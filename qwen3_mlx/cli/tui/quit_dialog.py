"""The question before leaving."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import Static


class QuitDialog(ModalScreen[bool]):
    """Asks whether to leave; its result is the answer."""

    CSS = """
    QuitDialog { align: center middle; }
    QuitDialog > Static {
        width: auto; height: auto; border: round ansi_bright_black; padding: 1 3;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter,ctrl+c,ctrl+d", "dismiss(True)", show=False),
        Binding("n,escape", "dismiss(False)", show=False),
    ]

    def compose(self) -> ComposeResult:
        """The question."""
        yield Static("Leave the chat?\n\nEnter or y: leave\nEsc or n: stay")
