"""The full-screen chat: the conversation above, the input below, and the status in the last row."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.widgets import TextArea

from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.terminal.screen import describe
from qwen3_mlx.cli.tui import controller
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.cli.tui.hangup import HangupWatcher
from qwen3_mlx.cli.tui.hints import Hints, complete
from qwen3_mlx.cli.tui.input import Input
from qwen3_mlx.cli.tui.output import Output
from qwen3_mlx.cli.tui.pace import Pace, collect_all
from qwen3_mlx.cli.tui.pending_input import PendingInput
from qwen3_mlx.cli.tui.quit_dialog import QuitDialog
from qwen3_mlx.cli.tui.stage import Stage
from qwen3_mlx.cli.tui.status import Status, context_used
from qwen3_mlx.cli.tui.theme import Themed
from qwen3_mlx.cli.tui.transcript import Transcript
from qwen3_mlx.cli.tui.turn_view import TurnView
from qwen3_mlx.cli.tui.worker import Begin, Inbox, Running, Worker
from qwen3_mlx.errors import SessionError

STATUS_S = 0.2
"""Seconds between two changes of the status row while a turn runs."""

FLASH_S = 3.0
"""Seconds that a remark in the status row stays."""


class Chat(Themed):
    """The program on the screen."""

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
        super().__init__(start.theme)
        self.start, self.model_name = start, start.name
        self.chat: Conversation | None = None
        self.view: TurnView | None = None
        self.worker, self.inbox = Worker(), Inbox(lambda: self.call_later(self._paint_news))
        self.log_view, self.hints, self.status = Transcript(), Hints(markup=False), Status()
        self.waiting, self.stage = PendingInput(), Stage()
        self.errors: list[BaseException] = []
        self.input = Input(start.history, complete)
        self._copied, self._status_at = 0, 0.0
        self._flash, self._flash_until = "", 0.0
        self._pace = Pace()
        self._frame: asyncio.TimerHandle | None = None
        self.busy = f"loading {start.name}"
        self._watch = HangupWatcher(self)

    def get_driver_class(self) -> type[Driver]:
        """What reads keys and writes to the terminal."""
        chosen = super().get_driver_class()
        return Output if chosen is LinuxDriver else chosen

    def get_default_screen(self) -> Stage:
        """What all stands on."""
        return self.stage

    def compose(self) -> ComposeResult:
        """The parts, from above."""
        yield self.log_view
        yield self.waiting
        yield self.hints
        yield self.input
        yield self.status

    def on_mount(self) -> None:
        """Begin to load, once the first frame is out."""
        self._watch.start()
        sys.setswitchinterval(0.001)  # the model's thread mustn't wait 5 ms for a frame to end
        self.log_view.note(GREETING if not self.start.note else f"{self.start.note}\n{GREETING}")
        self.worker.start()
        self.call_after_refresh(controller.load, self, self.start.name)
        self.show_status()

    def on_unmount(self) -> None:
        """Let a turn under way end, so that what was said is kept."""
        collect_all(True)
        if self._frame is not None:
            self._frame.cancel()
        if self.view is not None:
            self.view.running.stop()
        self.worker.finish(1.0)
        if self.chat is not None:
            with contextlib.suppress(SessionError):  # said when it first failed
                self.chat.keep()
            self.chat.close()

    @property
    def ready(self) -> bool:
        """Whether a message or a command can be taken now."""
        return self.chat is not None and self.view is None and not self.busy

    # what the person does

    @on(Input.Sent)
    def _sent(self, event: Input.Sent) -> None:
        try:
            controller.take(self, event.text)
        except Exception as error:  # a bug must not cost the conversation
            self.fail(error)
        self.show_status()

    @on(TextArea.Changed)
    def _typed(self) -> None:
        self.hints.suggest(self.input.text)

    def action_stop(self) -> None:
        """Ctrl-C: answer now, then stop, then ask whether to leave."""
        if self.view is not None and self.view.running.presses < 2 and not self._stopping():
            self.view.running.press()
            self.show_status()
        elif self.view is None and self.waiting:
            controller.take_back(self)
        elif self.view is None and self.input.text:
            self.input.clear()  # Ctrl-Z brings it back
        else:
            self.action_ask()

    def action_escape(self) -> None:
        """Esc: as Ctrl-C, but a text being written is left alone."""
        if self.view is not None or self.waiting or not self.input.text:
            self.action_stop()

    def _stopping(self) -> bool:
        view = self.view
        return view is not None and view.running.presses > 0 and not view.running.thinking

    @on(Input.Ended)
    def _ended(self) -> None:
        """Ctrl-D: leave, but not in the middle of a turn without being asked."""
        if self.view is None:
            self.exit(0)
        else:
            self.action_ask()

    def action_ask(self) -> None:
        """Ask whether to leave."""
        if not isinstance(self.screen, QuitDialog):
            self.push_screen(QuitDialog(), lambda leave: self.exit(0) if leave else None)
        else:
            self.exit(0)

    def action_toggle_thinking(self) -> None:
        """Ctrl-T: think, or don't, from the next turn on."""
        self.attempt(lambda chat: chat.switch(not chat.thinks))

    def action_budget(self, up: bool) -> None:
        """Alt-Up and Alt-Down: the thinking budget, by doubling and halving."""
        self.attempt(lambda chat: chat.step_budget(up))

    def action_copy(self) -> None:
        """Ctrl-O: copy what is marked, else the last answer; again, its code blocks one by one."""
        if marked := self.screen.get_selected_text():
            self.copy_to_clipboard(marked)
            self.screen.clear_selection()
            self.flash("copied what was marked")
            return
        answer = self.log_view.last_answer()
        if answer is None:
            return
        pieces = [answer.source, *answer.code_blocks()]
        index = self._copied % len(pieces)
        self._copied = index + 1
        self.copy_to_clipboard(pieces[index])
        what = f"code block {index} of {len(pieces) - 1}" if index else "the answer"
        more = "; Ctrl-O again: its code" if not index and len(pieces) > 1 else ""
        self.flash(f"copied {what}{more}")

    def action_fold(self) -> None:
        """Ctrl-R: fold all thoughts, or open them."""
        self.log_view.fold_thoughts()

    def action_page(self, direction: int) -> None:
        """Page through the conversation."""
        scroll = self.log_view.scroll_page_up if direction < 0 else self.log_view.scroll_page_down
        scroll(animate=False)

    def attempt(self, change: Callable[[Conversation], None]) -> None:
        """Change the conversation's options, and show what came of it."""
        if self.chat is None:
            self.flash("the model is still loading")
            return
        try:
            change(self.chat)
        except Exception as error:
            self.fail(error)
        self.show_status()

    # what the model does

    def begin(self, begin: Begin, sent: str = "") -> None:
        """Start a turn, and have it painted, its message too."""
        assert self.chat is not None
        self.log_view.follow()
        self._copied = 0
        running = Running(begin, self.inbox)
        budget = self.chat.budget if self.chat.thinks else None
        self.view = TurnView(self.log_view, running, budget, self.start.show_thinking, sent=sent)
        collect_all(False)
        self.worker.submit(running)

    def _paint_news(self) -> None:
        """Paint what has come, and look again a frame later until nothing has."""
        began, view = time.monotonic(), self.view
        if not (news := self.inbox.take()) or view is None:
            return
        with self.stage.frame():
            view.take(news)
            if view.over:
                controller.finish(self, view)
            if self.view is None or began - self._status_at >= STATUS_S:
                self._status_at = began
                self.show_status()
        if self.view is None:  # it may take a third of a second, so the last words go first
            collect_all(True)
        due = self._pace.next(began, time.monotonic())
        self._frame = asyncio.get_running_loop().call_at(due, self._paint_next)

    def _paint_next(self) -> None:
        try:
            self._paint_news()
        except Exception as error:  # as Textual does with what its own timers call
            self._handle_exception(error)

    def fail(self, error: BaseException) -> None:
        """Show an error in its place."""
        self.errors.append(error)
        self.log_view.note(f"error: {describe(error)}", error=True)

    def flash(self, text: str) -> None:
        """Show `text` in the last row for a moment."""
        self._flash, self._flash_until = text, time.monotonic() + FLASH_S
        self.show_status()
        self.set_timer(FLASH_S + 0.05, self.show_status)

    def show_status(self) -> None:
        """Bring the last row up to date."""
        chat, view = self.chat, self.view
        note = self._flash if time.monotonic() < self._flash_until else ""
        if chat is None:
            self.status.show(note or self.busy or "no model", self.model_name)
            return
        last = chat.session.last_stats
        speed = view.speed if view else (last.decode_tps if last else 0.0)
        memory = f"{last.peak_memory_bytes / 1e9:.2f} GB" if last else ""
        self.status.show(
            note or (view.status() if view else self.busy),
            chat.name,
            "" if view and view.thought and view.thought.live else chat.mode,  # the gauge says it
            context_used(chat, view.tokens if view else 0),
            f"{speed:.0f} tok/s" if speed else "",
            memory,
        )

    def on_resize(self, event: events.Resize) -> None:
        """Stay at the end if that is where we were."""
        if self.log_view.is_anchored and not self.log_view._anchor_released:
            self.log_view.follow()


GREETING = "/help lists commands and keys. Enter sends, Alt-Enter begins a line."
