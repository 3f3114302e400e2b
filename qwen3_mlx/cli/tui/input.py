"""The multi-line input with the history of all chats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea

from qwen3_mlx.cli.chat.input_history import History
from qwen3_mlx.cli.terminal.paste import CTRL_D
from qwen3_mlx.cli.tui.growing_text import showable

EDITS = {
    key: binding.action
    for binding in TextArea.BINDINGS
    if isinstance(binding, Binding) and binding.action.startswith(("cursor_", "delete_"))
    for key in binding.key.split(",")
    if "page" not in key
}
"""The editor's keys that move or delete, and their actions."""

JOINERS = ("\u200c", "\u200d")
"""The zero-width non-joiner and joiner, used by emoji and by Persian and Indian scripts."""


class Input(TextArea):
    """An editor that sends with Enter. Up and Down at the text's edges go through the history."""

    DEFAULT_CSS = """
    Input, Input:focus {
        height: auto; min-height: 1; max-height: 10; padding: 0 1;
        border: none; border-top: solid ansi_bright_black;
    }
    """
    # No bindings: a key reaches these by way of the app, so they would come after the letters that
    # were typed behind it, where a busy machine reads several keys at once; priority bindings would
    # come before the letters typed just before.
    KEYS: ClassVar[dict[str, str]] = EDITS | {
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
        """The user pressed Ctrl-D in an empty input."""

    @dataclass
    class Sent(Message):
        """The user sent `text`."""

        text: str

    def __init__(self, history: Path | None, complete: Callable[[str], str]) -> None:
        super().__init__(soft_wrap=True, show_line_numbers=False, tab_behavior="focus")
        self.past, self._completer = History(history), complete
        self.cursor_blink = False  # blinking would wake the program twice a second

    async def on_key(self, event: events.Key) -> None:
        """Handle the keys in `KEYS`; the editor handles all others."""
        if event.key in self.KEYS:
            event.stop()
            event.prevent_default()
            await self.run_action(self.KEYS[event.key])
        elif event.character and event.character in JOINERS:  # the editor ignores these
            event.stop()
            event.prevent_default()
            self.insert(event.character)

    def action_end_of_input(self) -> None:
        """Ctrl-D: delete the next character; in an empty input, end the chat."""
        if self.text:
            self.action_delete_right()
        else:
            self.post_message(self.Ended())

    def action_send(self) -> None:
        """Send the text unless it is blank, and clear the input."""
        if text := self.text if self.text.strip() else "":
            self.past.add(text)
            self.put("")
            self.post_message(self.Sent(text))

    def type_ahead(self, text: str) -> None:
        """Send every line of `text` but the last one, which stays in the input.

        A line that begins with Ctrl-D ends the chat.
        """
        *sent, rest = text.split("\n")
        for line in sent:
            self._type(line)
            self.action_send()
        self._type(rest)

    def _type(self, line: str) -> None:
        if line.startswith(CTRL_D):
            self.post_message(self.Ended())
        self.put(showable(line))

    def put(self, text: str) -> None:
        """Replace the text, and move the cursor to its end."""
        self.load_text(text)
        self.move_cursor(self.document.end)

    def put_above(self, text: str) -> None:
        """Insert `text` above the current text."""
        self.put("\n".join(filter(None, (text, self.text))))

    def action_new_line(self) -> None:
        """Begin a new line."""
        self.insert("\n")

    def action_older(self) -> None:
        """Move up a row; in the first row, show the previous history entry."""
        if self.get_cursor_up_location() != self.cursor_location and self._row() > 0:
            self.action_cursor_up()
        elif (text := self.past.older(self.text)) is not None:
            self.put(text)

    def action_newer(self) -> None:
        """Move down a row; in the last row, show the next history entry."""
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
        """Insert a paste without control characters; line ends become newlines."""
        event.stop()
        event.prevent_default()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        self.insert(showable(text) if "\t" not in text else _with_tabs(text))


def _with_tabs(text: str) -> str:
    # code keeps its tabs
    return "\t".join(showable(part) for part in text.split("\t"))
