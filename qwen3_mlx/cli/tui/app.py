"""The full-screen chat's Textual app: transcript, input and status row."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import TextArea

from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.terminal.screen import describe
from qwen3_mlx.cli.tui import quit_dialog
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.cli.tui.consent_dialog import Question
from qwen3_mlx.cli.tui.controller import Controller
from qwen3_mlx.cli.tui.copying import copy
from qwen3_mlx.cli.tui.driver import PasteDriver
from qwen3_mlx.cli.tui.hangup import LAST_PASS_S, LOST, HangupWatcher
from qwen3_mlx.cli.tui.hints import Hints, complete
from qwen3_mlx.cli.tui.input import Input
from qwen3_mlx.cli.tui.pace import Pace, collect_all
from qwen3_mlx.cli.tui.pending_input import PendingInput
from qwen3_mlx.cli.tui.status import Status, context_used
from qwen3_mlx.cli.tui.theme import Themed
from qwen3_mlx.cli.tui.transcript import Transcript
from qwen3_mlx.cli.tui.turn_view import TurnView
from qwen3_mlx.cli.tui.worker import Begin, Inbox, Running, Worker
from qwen3_mlx.errors import SessionError, gb

STATUS_S = 0.2
"""Seconds between two updates of the status row during a turn."""

COLLECT_S = 0.1
"""Seconds after a turn until Python's full garbage collection may run."""

FLASH_S = 3.0
"""Seconds that a flashed message stays in the status row."""


class Chat(Themed):
    """The app: widgets, key bindings, and the loop that paints a turn's news."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = "Input"
    CSS = "Screen { layout: vertical; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "stop", show=False, priority=True),
        Binding("escape", "escape", show=False),
        Binding("ctrl+q", "ask", show=False, priority=True),
        Binding("ctrl+t", "toggle_thinking", show=False, priority=True),
        Binding("alt+up", "budget(True)", show=False, priority=True),
        Binding("alt+down", "budget(False)", show=False, priority=True),
        Binding("ctrl+o", "copy", show=False, priority=True),
        Binding("ctrl+r", "fold", show=False, priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
    ]

    def __init__(self, start: ChatSetup) -> None:
        super().__init__(start.theme, PasteDriver)
        self.setup = start
        self.worker, self.inbox = Worker(), Inbox(lambda: self.call_later(self.paint_news))
        self.controller = Controller(self, self.worker, start)
        self.log_view, self.hints, self.status = Transcript(), Hints(markup=False), Status()
        self.waiting = PendingInput()
        self.errors: list[BaseException] = []
        self.input = Input(start.history, complete)
        self._copied, self._status_at, self._flash, self._flash_until = 0, 0.0, "", 0.0
        self._pace = Pace()
        self._frame: asyncio.TimerHandle | None = None
        self._hangup = HangupWatcher(
            on_hangup=self._save_and_die, on_terminate=lambda: self.exit(128 + signal.SIGTERM)
        )

    def compose(self) -> ComposeResult:
        """Yield the widgets, top to bottom."""
        yield self.log_view
        yield self.waiting
        yield self.hints
        yield self.input
        yield self.status

    def on_mount(self) -> None:
        """Start the worker; load the model after the first frame."""
        if not self.is_headless:
            self._hangup.start()
        self.note(GREETING if not self.setup.note else f"{self.setup.note}\n{GREETING}")
        self.worker.start()
        self.input.type_ahead(self.setup.typed_ahead)
        self.call_after_refresh(self.controller.load, self.setup.name)
        if (asking := self.controller.asking) is not None:
            self.call_after_refresh(asking.start)
        self.show_status()

    def on_unmount(self) -> None:
        """Stop the running turn and save the conversation."""
        collect_all(True)
        if self._frame is not None:
            self._frame.cancel()
        self.controller.close()
        self.worker.finish(1.0)
        if (chat := self.controller.chat) is not None:
            with contextlib.suppress(SessionError):  # the first failure was shown
                chat.keep()
            chat.close()

    def _save_and_die(self) -> None:
        """Save the conversation and end the process, after the terminal is gone."""
        if (turn := self.controller.turn) is not None:
            turn.running.stop()
            turn.running.over.wait(LAST_PASS_S)
        if self.controller.chat is not None:
            with contextlib.suppress(Exception):
                self.controller.chat.keep()
        os._exit(LOST)

    # the user's actions

    @on(Input.Sent)
    def _sent(self, event: Input.Sent) -> None:
        self.controller.submit(event.text)

    @on(TextArea.Changed)
    def _typed(self) -> None:
        self.hints.suggest(self.input.text)

    def action_stop(self) -> None:
        """Ctrl-C: answer now, then stop, then ask whether to leave."""
        turn = self.controller.turn
        if isinstance(question := self.screen, Question):
            if turn is not None:
                turn.running.stop()
            question.refuse()
        elif turn is not None and turn.running.presses < 2 and not turn.stopping:
            turn.running.press()
            self.show_status()
        elif turn is None and self.controller.pending:
            self.controller.take_back()
        elif turn is None and self.input.text:
            self.input.clear()  # Ctrl-Z restores it
        else:
            self.action_ask()

    def action_escape(self) -> None:
        """Esc: skip a trial of the kernels, or act as Ctrl-C but keep the input's text."""
        skipped = self.controller.skip()
        if not skipped and (self.controller.turn or self.controller.pending or not self.input.text):
            self.action_stop()

    @on(Input.Ended)
    def _ended(self) -> None:
        """Ctrl-D: leave; ask first during a turn, or when a message waits."""
        if self.controller.turn is None and not self.controller.pending:
            self.leave()
        else:
            self.action_ask()

    def action_ask(self) -> None:
        """Ask whether to leave."""
        quit_dialog.ask(self, self.controller.chat)

    def action_toggle_thinking(self) -> None:
        """Ctrl-T: switch thinking on or off for the next turns."""
        self.attempt(lambda chat: chat.switch(not chat.thinks))

    def action_budget(self, up: bool) -> None:
        """Alt-Up and Alt-Down: double or halve the thinking budget."""
        self.attempt(lambda chat: chat.step_budget(up))

    def action_copy(self) -> None:
        """Ctrl-O: copy the selection, or the last answer and then its code blocks in turn."""
        self._copied, remark = copy(self, self.log_view.last_answer(), self._copied)
        if remark:
            self.flash(remark)

    def action_fold(self) -> None:
        """Ctrl-R: fold all thoughts, or open them."""
        self.log_view.fold_thoughts()

    def action_page(self, direction: int) -> None:
        """Page through the conversation."""
        scroll = self.log_view.scroll_page_up if direction < 0 else self.log_view.scroll_page_down
        scroll(animate=False)

    def attempt(self, change: Callable[[Conversation], object]) -> None:
        """Change the conversation's options, if there is one yet."""
        if self.controller.chat is None:
            self.flash("the model is still loading")
        else:
            self.controller.change(change)

    # the controller's `View`

    def note(self, text: str) -> None:
        """Add a notice to the transcript."""
        self.log_view.note(text)

    def fail(self, error: BaseException, *, is_shown: bool = False) -> None:
        """Record an error for ``--debug``, and show it unless the transcript already does."""
        self.errors.append(error)
        if not is_shown:
            self.log_view.note(f"error: {describe(error)}", error=True)

    def show_messages(self, messages: list[dict[str, Any]]) -> None:
        """Replace the transcript by these messages."""
        self.log_view.show(messages, folded=self.setup.show_thinking != "always")

    def follow(self) -> None:
        """Scroll to the end and follow it."""
        self.log_view.follow()

    def show_pending(self, texts: list[str]) -> None:
        """List the queued texts."""
        self.waiting.show(texts)

    def put_in_input(self, text: str) -> None:
        """Insert `text` above the input's text."""
        self.input.put_above(text)

    def leave(self) -> None:
        """End the program; ask first if the chat isn't on the disk."""
        quit_dialog.leave(self, self.controller.chat)

    def ask(self, question: Question[Any], answer: Callable[[Any], None]) -> None:
        """Show a question above the chat, and call `answer` with the user's answer."""
        self.push_screen(question, answer)

    # the running turn

    def start_turn(self, begin: Begin, message: str) -> TurnView:
        """Run a turn in the worker and show it below its message."""
        chat = self.controller.chat
        assert chat is not None
        self.log_view.follow()
        self._copied = 0
        running = Running(begin, self.inbox)
        budget = chat.budget if chat.thinks else None
        shown, automatic = self.setup.show_thinking, chat.automatic
        turn = TurnView(self.log_view, running, budget, shown, sent=message, automatic=automatic)
        collect_all(False)
        self.worker.submit(running)
        return turn

    def paint_news(self) -> None:
        """Show the worker's news, and schedule the next frame until there is none."""
        began, turn = time.monotonic(), self.controller.turn
        if not (news := self.inbox.take()) or turn is None:
            self.show_status()  # the last frame for now, so the status must be current
            return
        turn.take(news)
        if turn.over:
            self.controller.finish(turn)
        if (running := self.controller.turn) is None or began - self._status_at >= STATUS_S:
            self._status_at = began
            self.show_status()
        if running is None:  # a collection may take 0.3 s, so the last words are shown first
            self.set_timer(COLLECT_S, self._collect)
        due = self._pace.next(began, time.monotonic())
        self._frame = asyncio.get_running_loop().call_at(due, self.call_later, self.paint_news)

    def _collect(self) -> None:
        if self.controller.turn is None:
            collect_all(True)

    def flash(self, text: str) -> None:
        """Show `text` in the status row for `FLASH_S` seconds."""
        self._flash, self._flash_until = text, time.monotonic() + FLASH_S
        self.show_status()
        self.set_timer(FLASH_S + 0.05, self.show_status)

    def show_status(self) -> None:
        """Update the status row."""
        control = self.controller
        chat, turn = control.chat, control.turn
        note = self._flash if time.monotonic() < self._flash_until else ""
        if chat is None:
            self.status.show(note or control.doing or "no model", control.model_name)
            return
        last = chat.session.last_stats
        speed = turn.speed if turn else (last.decode_tps if last else 0.0)
        memory = gb(last.peak_memory_bytes, 2) if last else ""
        self.status.show(
            note or control.doing,
            chat.name,
            "" if turn and turn.thinking else chat.mode,  # the gauge shows it
            context_used(chat, turn.tokens if turn else 0),
            f"{speed:.0f} tok/s" if speed else "",
            memory,
        )


GREETING = "/help lists commands and keys. Enter sends, Alt-Enter begins a line."
