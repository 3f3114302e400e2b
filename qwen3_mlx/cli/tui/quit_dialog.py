"""The dialog that asks before leaving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import Static

from qwen3_mlx.cli.tui.growing_text import showable
from qwen3_mlx.cli.tui.input import Input

if TYPE_CHECKING:
    from qwen3_mlx.cli.chat.conversation import Conversation


def leave(app: App[Any], chat: Conversation | None) -> None:
    """Leave; ask first if the chat should be on the disk, and isn't."""
    if chat is not None and chat.unkept():
        ask(app, chat)
    else:
        app.exit(0)


def ask(app: App[Any], chat: Conversation | None) -> None:
    """Ask whether to leave, and say if the chat isn't on the disk; asked again, leave."""
    if isinstance(app.screen, QuitDialog):
        app.exit(0)
        return
    dialog = QuitDialog(chat.unkept() if chat is not None else "")
    app.push_screen(dialog, lambda leaving: app.exit(0) if leaving else None)


class QuitDialog(ModalScreen[bool]):
    """Asks whether to leave; its result is the answer."""

    CSS = """
    QuitDialog { align: center middle; }
    QuitDialog > Static {
        width: auto; max-width: 100%; height: auto; border: round ansi_bright_black; padding: 1 3;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+d", "dismiss(True)", show=False),
        Binding("escape", "dismiss(False)", show=False),
    ]
    ANSWERS: ClassVar[dict[str, bool]] = {"y": True, "enter": True, "n": False}

    def __init__(self, remark: str = "") -> None:
        super().__init__()
        self._is_typing, self._remark = False, remark

    def compose(self) -> ComposeResult:
        """Yield the question."""
        remark = f"{self._remark}\n\n" if self._remark else ""
        question = "Leave the chat?\n\nEnter or y: leave\nEsc or n: stay"
        yield Static(showable(f"{remark}{question}"), markup=False)

    def on_key(self, event: events.Key) -> None:
        """Take an answer; any other typed key means stay, and goes to the chat's input."""
        if not self._is_typing and event.key in self.ANSWERS:
            event.stop()
            self.dismiss(self.ANSWERS[event.key])
        elif event.is_printable or self._is_typing:
            event.stop()
            self._type(event)

    def _type(self, event: events.Key) -> None:
        text = self.app.query_one(Input)
        if event.is_printable and event.character:
            text.insert(event.character)
        elif event.key == "enter":
            text.action_send()
        if not self._is_typing:  # more keys may arrive before the dialog is gone
            self._is_typing = True
            self.dismiss(False)
