"""Where the person types: as many lines as they like, with the history of all chats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from qwen3_mlx.cli.chat.input_history import History
from qwen3_mlx.cli.tui.growing_text import showable

JOINERS = ("\u200c", "\u200d")
"""They join emoji, and part letters in Persian and Indian scripts."""


class Input(TextArea):
    """An editor that sends with Enter. Up and Down leave the text for the history."""

    DEFAULT_CSS = """
    Input, Input:focus {
        height: auto; min-height: 1; max-height: 10; padding: 0 1;
        border: none; border-top: solid ansi_bright_black;
    }
    """
    # Not bindings with priority: those would overtake the letters typed just before.
    KEYS: ClassVar[dict[str, str]] = {
        "enter": "send",
        "alt+enter": "new_line",
        "shift+enter": "new_line",
        "ctrl+j": "new_line",
        "up": "older",
        "down": "newer",
        "tab": "complete",
        "ctrl+d": "end_of_input",
    }

    class Ended(Message):
        """The person pressed Ctrl-D and nothing is written."""

    @dataclass
    class Sent(Message):
        """The person pressed Enter on `text`."""

        text: str

    def __init__(self, history: Path | None, complete: Callable[[str], str]) -> None:
        super().__init__(soft_wrap=True, show_line_numbers=False, tab_behavior="focus")
        self.past, self._completer = History(history), complete
        self.cursor_blink = False  # it would wake the program twice a second

    def on_key(self, event: events.Key) -> None:
        """Act on our keys; the editor acts on all others."""
        if event.key in self.KEYS:
            event.stop()
            event.prevent_default()
            getattr(self, f"action_{self.KEYS[event.key]}")()
        elif event.character and event.character in JOINERS:  # no letters to the editor
            event.stop()
            event.prevent_default()
            self.insert(event.character)

    def action_end_of_input(self) -> None:
        """Ctrl-D: delete a character if there is any, else it is the end."""
        if self.text:
            self.action_delete_right()
        else:
            self.post_message(self.Ended())

    def action_send(self) -> None:
        """Send the text, if there is any, and begin an empty one."""
        if text := self.text if self.text.strip() else "":
            self.past.add(text)
            self.put("")
            self.post_message(self.Sent(text))

    def type_ahead(self, text: str) -> None:
        """Send every line of `text` but the last one, which stays to be written on."""
        *sent, rest = showable(text).split("\n")
        for line in sent:
            self.put(line)
            self.action_send()
        self.put(rest)

    def put(self, text: str) -> None:
        """Set `text`, the cursor behind it."""
        self.load_text(text)
        self.move_cursor(self.document.end)

    def put_above(self, text: str) -> None:
        """Set `text`, with what stands there kept below it."""
        self.put("\n".join(filter(None, (text, self.text))))

    def action_new_line(self) -> None:
        """Begin a new line."""
        self.insert("\n")

    def action_older(self) -> None:
        """Up a row, or above the first one to the entry before."""
        if self.get_cursor_up_location() != self.cursor_location and self._row() > 0:
            self.action_cursor_up()
        elif (text := self.past.older(self.text)) is not None:
            self.put(text)

    def action_newer(self) -> None:
        """Down a row, or below the last one to the entry after."""
        if self._row() < self.wrapped_document.height - 1:
            self.action_cursor_down()
        elif (text := self.past.newer()) is not None:
            self.put(text)

    def _row(self) -> int:
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def action_complete(self) -> None:
        """Complete a command."""
        if (text := self._completer(self.text)) != self.text:
            self.put(text)

    def on_paste(self, event: events.Paste) -> None:
        """Paste as it is, but for what would break the screen; line ends become newlines."""
        event.stop()
        event.prevent_default()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        self.insert(showable(text) if "\t" not in text else _with_tabs(text))


def _with_tabs(text: str) -> str:
    # code keeps its tabs
    return "\t".join(showable(part) for part in text.split("\t"))
