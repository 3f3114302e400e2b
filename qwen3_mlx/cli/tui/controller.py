"""The full-screen chat's logic: messages, commands, loaded models, and finished turns."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING

from qwen3_mlx.cli.chat import slash_commands
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.chat.result import CommandResult
from qwen3_mlx.cli.tui.asking import Asking
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.cli.tui.status import bar
from qwen3_mlx.cli.tui.turn_view import TurnView
from qwen3_mlx.cli.tui.view import View
from qwen3_mlx.cli.tui.worker import Worker

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

NEARLY_FULL = 0.8
"""Share of the context from which a notice warns that it is nearly full."""

NO_MODEL = "no model: choose another with /model NAME, or leave with /quit"

AT_ONCE = ("/help", "/quit")
"""Commands that also run while the model loads or a turn runs."""

TRYING = "trying the kernels"
"""The value of `busy` while the worker tries a new model's kernels."""


class Controller:
    """Owns the conversation, the running turn, and the queue of texts."""

    def __init__(self, view: View, worker: Worker, setup: ChatSetup) -> None:
        self._view, self._worker, self._setup = view, worker, setup
        self._skip = Event()
        self.chat: Conversation | None = None
        self.turn: TurnView | None = None
        self.model_name = setup.name
        self.busy = f"loading {setup.name}"
        """What the worker does besides a turn, as text; "" if nothing."""
        self.pending: list[str] = []
        tools = setup.tools
        self.asking = Asking(view, tools, self._changed) if tools is not None else None

    @property
    def is_ready(self) -> bool:
        """Whether a message or a command can run now."""
        starting = self.asking is not None and self.asking.starting
        return self.chat is not None and self.turn is None and not self.busy and not starting

    @property
    def doing(self) -> str:
        """The current activity for the status row; "" if idle."""
        if self.turn is not None:
            return self.turn.status()
        return self.busy or (self.asking.starting if self.asking is not None else "")

    def _changed(self) -> None:
        """Continue after a change of the tool servers' state."""
        self._run_pending()
        self._view.show_status()

    def close(self) -> None:
        """Stop the turn, answer open questions with no, and end the tool servers."""
        if self.turn is not None:
            self.turn.running.stop()
        if self.asking is not None:
            self.asking.close()

    def submit(self, text: str) -> None:
        """Send a message or run a command, or queue it behind earlier ones."""
        try:
            self._submit(text)
        except Exception as error:  # a bug must not cost the conversation
            self._view.fail(error)
        self._view.show_status()

    def _submit(self, text: str) -> None:
        name = text.split()[0]
        first = name in AT_ONCE or (name == "/model" and self.chat is None and not self.busy)
        if first and slash_commands.is_command(text):
            self._command(text)
            return
        self.pending.append(text)
        self._run_pending()
        if self.chat is None and not self.busy:
            self._view.note(NO_MODEL)

    def _run_pending(self) -> None:
        """Run queued texts until one takes time or fails."""
        while self.pending and self.is_ready:
            text = self.pending.pop(0)
            try:
                self._run(text)
            except Exception as error:  # a bug must not cost the conversation
                self._view.fail(error)
                if slash_commands.is_refused(text):
                    self.pending.insert(0, text)  # the user can correct it
                self.take_back()
        self._view.show_pending(self.pending)

    def _run(self, text: str) -> None:
        if slash_commands.is_command(text):
            self._command(text)
        else:
            self._send(text)

    def take_back(self) -> None:
        """Move the queued texts back into the input."""
        if self.pending:
            self._view.put_in_input("\n".join(self.pending))
            self.pending.clear()
            self._view.show_pending(self.pending)

    def change(self, change: Callable[[Conversation], object]) -> None:
        """Apply `change` to the conversation; an error is shown."""
        if self.chat is not None:
            try:
                change(self.chat)
            except Exception as error:
                self._view.fail(error)
        self._view.show_status()

    def _send(self, text: str) -> None:
        assert self.chat is not None
        chat, clean = self.chat, self.chat.sending(text)
        self.turn = self._view.start_turn(lambda progress: chat.begin(clean, progress), clean)

    def _command(self, line: str) -> None:
        name, text = slash_commands.parse(line)
        if name == "quit":
            self._view.leave()
        elif name == "help":
            self._view.note(slash_commands.help_text(is_full_screen=True))
        elif self.chat is None:
            self.load(text)
        else:
            before = [*self.chat.session.messages]
            result = slash_commands.run(self.chat, line)
            if self.chat.session.messages != before:
                self.chat.recount()
            self._apply(self.chat, result)
            self.change(Conversation.keep)
        self._view.follow()

    def _apply(self, chat: Conversation, result: CommandResult) -> None:
        if result.changed:
            self._view.show_messages(chat.session.messages)
        if result.text:
            self._view.note(result.text)
        if result.edit is not None:
            self._view.put_in_input(result.edit)
        if result.model is not None:
            self.load(result.model)
        if result.start_server is not None and self.asking is not None:
            self.asking.start(result.start_server)
        if result.stop_server is not None and self.asking is not None:
            self.asking.stop(result.stop_server)
        if result.send is not None:
            self._send(result.send)
        if result.retry:
            self._retry(chat)
        if result.quit:
            self._view.leave()

    def _retry(self, chat: Conversation) -> None:
        messages = chat.session.messages
        last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=-1)
        if last >= 0:
            self._view.show_messages(messages[: last + 1])
            chat.recount(messages[:last])  # what the answer that goes took is free again
        self.turn = self._view.start_turn(lambda progress: chat.begin(None, progress), "")

    def load(self, name: str) -> None:
        """Load a model in the worker; the current one stays until then."""
        view, setup = self._view, self._setup
        try:
            if setup.find(name) is None:
                self._fetch(name)
        except (Exception, KeyboardInterrupt) as error:
            self._not_loaded(error)
            return
        self.busy = f"loading {name}"
        view.show_status()

        def progress(done: int, total: int) -> None:
            view.call_later(self._progress, name, done, total)

        def trying(line: str) -> None:
            view.call_later(self._trying, line)

        def job() -> None:
            try:
                model = setup.load(name, progress)
                outcome = setup.try_kernels(model, trying, self._skip.is_set)
            except Exception as error:
                view.call_later(self._not_loaded, error)
            else:
                view.call_later(self._loaded, name, model, outcome)

        self._skip.clear()
        self._worker.submit(job)

    def _trying(self, line: str) -> None:
        self.busy = TRYING
        self._view.note(line)
        self._view.show_status()

    def skip(self) -> bool:
        """Skip a trial of the kernels; returns whether one is running."""
        if trying := self.busy == TRYING:
            self._skip.set()
        return trying

    def _fetch(self, name: str) -> None:
        failure: BaseException | None = None
        with self._view.suspend():
            try:
                self._setup.fetch(name)
            except (Exception, KeyboardInterrupt) as error:
                failure = error  # Textual resumes after `suspend` only without an exception
        if failure is not None:
            raise failure

    def _progress(self, name: str, done: int, total: int) -> None:
        if self.busy:
            self.busy = f"loading {name} {bar(done, total)} {100 * done // max(total, 1)} %"
            self._view.show_status()

    def _not_loaded(self, error: BaseException) -> None:
        self.busy = ""
        self._view.fail(error)
        self.take_back()
        if self.chat is None:
            self._view.note(NO_MODEL)
        self._view.show_status()

    def _loaded(self, name: str, model: Qwen3, outcome: str = "") -> None:
        self.busy, self.model_name = "", name
        if outcome:
            self._view.note(outcome)
        self._setup.remember(name)
        if self.chat is None:
            self._open(model)
        else:
            self.chat.adopt(model)
            self.chat.recount()  # another tokenizer, another template
            self._view.note(f"from now on: {self.chat.name}, {self.chat.mode}")
        self._run_pending()
        self._view.show_status()

    def _open(self, model: Qwen3) -> None:
        session = model.session(self._setup.system, self._setup.options)
        self.chat = Conversation(model, session)
        notes = self._setup.prepare(self.chat)
        self.chat.recount()
        if len(session.messages) > 1:
            self._view.show_messages(session.messages)
        for note in notes:
            self._view.note(note)

    def finish(self, turn: TurnView) -> None:
        """Finish an ended turn: count it, warn of a full context, and run the queued texts.

        If the turn failed or was stopped, the queued texts go back into the input instead.
        """
        self.turn = None
        assert self.chat is not None
        if turn.done is not None:
            self.chat.count(turn.done)
            self._warn(self.chat)
        else:
            self.chat.recount()
        self.change(Conversation.keep)
        if turn.done is None or turn.done.finish_reason == "interrupted":
            self.take_back()
        if turn.error is not None:
            self._view.fail(turn.error, is_shown=True)
            if not turn.began:
                self._view.put_in_input(turn.sent)  # refused: the user can change it
        self._run_pending()
        if turn.done is not None and self.is_ready:
            self.chat.session.warm_in_background()  # while the user reads the answer

    def _warn(self, chat: Conversation) -> None:
        used, context = chat.used, chat.context
        if context is not None and used >= NEARLY_FULL * context:
            self._view.note(
                f"the context is {100 * used // context} % full, {max(context - used, 0):,} tokens"
                " are left: /drop forgets the oldest turn, /clear all of them"
            )
