"""The dialogs that ask before a tool server starts and before a call runs."""

from __future__ import annotations

import json
import time
from typing import Any, ClassVar, Generic, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from qwen3_mlx.cli.tools import shown
from qwen3_mlx.cli.tools.questions import read_arguments
from qwen3_mlx.cli.tui.input import Input
from qwen3_mlx.cli.tui.transcript import Transcript
from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.consent import Always, Decision, No, Once
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.tool import Tool

QUIET_S = 0.5
"""Seconds without a key before a key counts as an answer: a typing user hasn't read it yet."""

T = TypeVar("T")


class AnswerInput(Input):
    """The input for a reason or arguments; it also sends an empty text."""

    class Placed(Message):
        """It has appeared, grown or gone, and so moved the rest of the question."""

    def on_resize(self) -> None:
        """Tell the question."""
        self.post_message(self.Placed())

    def on_hide(self) -> None:
        """As `on_resize`."""
        self.post_message(self.Placed())

    def action_send(self) -> None:
        """Send the text, even if it is empty."""
        self.post_message(self.Sent(self.text))


class Question(ModalScreen[T], Generic[T]):
    """Shows a scrollable text, and takes one key as the answer."""

    AUTO_FOCUS = "VerticalScroll"
    DEFAULT_CSS = """
    Question { align: center bottom; }
    Question > VerticalScroll {
        height: auto; max-height: 80%; border: round ansi_bright_black; padding: 0 1;
    }
    Question > #answers { height: auto; padding: 0 1; text-style: bold; }
    """
    ANSWERS: ClassVar[str] = ""
    KEYS: ClassVar[dict[str, str]] = {}

    def __init__(self, title: str, lines: list[str], refused: T) -> None:
        super().__init__()
        self._title, self._lines, self._refused = title, lines, refused
        self._since = time.monotonic()
        self.writing = AnswerInput(None, str)
        self.writing.display = False
        self.answers = Static(self.ANSWERS, id="answers", markup=False)
        self.text = Static(self._whole(), markup=False)

    def _whole(self) -> str:
        return "\n".join([self._title, *(f"  {line}" for line in self._lines)])

    def compose(self) -> ComposeResult:
        """Yield the text, the input and the possible answers."""
        with VerticalScroll():
            yield self.text
        yield self.writing
        yield self.answers

    def on_mount(self) -> None:
        """Raise the transcript above the question."""
        self.call_after_refresh(self._make_room)

    def on_resize(self) -> None:
        """As `on_mount`."""
        self.call_after_refresh(self._make_room)

    @on(AnswerInput.Placed)
    def _placed(self) -> None:
        self._make_room()

    def on_unmount(self) -> None:
        """Give the transcript its place back, or leave room for the question below this one."""
        if isinstance(below := self.app.screen, Question):
            below._make_room()
            return
        for transcript in self.app.query(Transcript):
            transcript.styles.margin = 0

    def _make_room(self) -> None:
        """Keep the transcript's newest lines in sight: what a call is for, the last result."""
        shown = (child.region for child in self.children if child.display)
        top = min((region.y for region in shown if region.height), default=self.size.height)
        for transcript in self.app.query(Transcript):
            below = sum(one.outer_size.height for one in transcript.siblings if one.display)
            covered = self.size.height - below - top
            transcript.styles.margin = (0, 0, max(min(covered, self.size.height - below - 1), 0), 0)

    def on_key(self, event: events.Key) -> None:
        """Call `pressed`. Textual calls every class's own on_key, so subclasses override that."""
        self.pressed(event)

    def pressed(self, event: events.Key) -> None:
        """Take an answer; keys of a user who is still typing go to the chat's input."""
        quiet = time.monotonic() - self._since >= QUIET_S
        if not quiet and (event.is_printable or event.key == "enter"):
            self._since = time.monotonic()
            event.stop()
            if event.is_printable and event.character:
                self.typed(event.character)
        elif event.key in self.KEYS:
            event.stop()
            getattr(self, f"action_{self.KEYS[event.key]}")()

    def typed(self, letter: str) -> None:
        """Insert a letter into the chat's input."""
        self.app.query_one("Input", TextArea).insert(letter)

    def refuse(self) -> None:
        """Answer no, because the user ends the turn."""
        self.dismiss(self._refused)


class ServerDialog(Question[bool]):
    """Asks whether a server may be started."""

    ANSWERS = "start it?  y yes   n no"
    KEYS: ClassVar[dict[str, str]] = {"y": "yes", "n": "no", "escape": "no"}

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(f"the server {config.name}:", shown.server_lines(config), False)

    def action_yes(self) -> None:
        """Answer yes."""
        self.dismiss(True)

    def action_no(self) -> None:
        """Answer no."""
        self.dismiss(False)


class CallDialog(Question[Decision]):
    """Asks whether a call may run."""

    ANSWERS = "run it?  y once   a always in this chat   n no, with a reason   e edit"
    KEYS: ClassVar[dict[str, str]] = {
        "y": "once",
        "a": "always",
        "n": "no",
        "e": "edit",
        "escape": "refuse",
    }

    def __init__(self, call: ToolCall, tool: Tool) -> None:
        lines = shown.argument_lines(call.arguments)
        super().__init__(f"▸ {shown.title(tool)}", lines, No("they ended the turn"))
        self._arguments, self._edited = call.arguments, False
        self._editing = False

    def action_once(self) -> None:
        """Allow this call."""
        self.dismiss(Once(self._arguments if self._edited else None))

    def action_always(self) -> None:
        """Allow the tool for the session; not available after the arguments were edited."""
        if not self._edited:
            self.dismiss(Always())

    def action_refuse(self) -> None:
        """Refuse the call without a reason."""
        self.dismiss(No())

    def action_no(self) -> None:
        """Ask for the reason of a refusal, which the model gets."""
        self._write("why not? Enter sends it to the model, an empty one too; Esc: back", "")

    def action_edit(self) -> None:
        """Let the user edit the arguments."""
        self._editing = True
        text = json.dumps(self._arguments, ensure_ascii=False, indent=1)
        self._write("the arguments in JSON; Enter: done, Alt-Enter: a new line, Esc: back", text)

    def _write(self, hint: str, text: str) -> None:
        self.answers.update(hint)
        self.writing.display = True
        self.writing.put(text)
        self.writing.focus()

    def _back(self) -> None:
        self._editing = self.writing.display = False
        self.answers.update(self.ANSWERS)
        self.query_one(VerticalScroll).focus()

    def pressed(self, event: events.Key) -> None:
        """As `Question.pressed`; while the user writes, Esc goes back."""
        if not self.writing.display:
            super().pressed(event)
        elif event.key == "escape":
            event.stop()
            self._back()
        elif not self.writing.has_focus:  # the focus comes later; a fast key must not be lost
            event.stop()
            if event.key == "enter":
                self._written(self.writing.text)
            elif event.is_printable and event.character:
                self.writing.insert(event.character)

    @on(Input.Sent)
    def _sent(self, event: Input.Sent) -> None:
        event.stop()
        self._written(event.text)

    @on(Input.Ended)
    def _ended(self, event: Input.Ended) -> None:
        event.stop()
        self._back()

    def _written(self, text: str) -> None:
        if not self._editing:
            self.dismiss(No(text.strip()))
            return
        try:
            self._take(read_arguments(text))
        except ValueError as error:
            self.answers.update(str(error))
            self.writing.put(text)

    def _take(self, arguments: dict[str, Any]) -> None:
        """Ask again with the edited arguments."""
        self._arguments, self._edited = arguments, True
        self._lines = [*shown.argument_lines(arguments), "(edited by you)"]
        self.text.update(self._whole())
        self._back()
