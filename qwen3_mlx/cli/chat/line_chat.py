"""The line-based chat: reads a message, prints the turn, and repeats."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from qwen3_mlx.cli.chat import load, slash_commands
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.chat.line_input import Lines, Prompt, Reader
from qwen3_mlx.cli.chat.try_kernels import try_kernels
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.cli.terminal.interrupt import ends_after_turn, interrupts_turn
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.render import (
    UNANSWERED,
    AnswerView,
    PlainAnswer,
    Renderer,
    ending_note,
    footer,
)
from qwen3_mlx.cli.terminal.screen import Screen, is_terminal
from qwen3_mlx.cli.tools import commands as tools_commands
from qwen3_mlx.cli.tools.chat_tools import ChatTools
from qwen3_mlx.cli.tools.questions import LineQuestions
from qwen3_mlx.cli.tools.turn import ToolTurn, only_last_answer
from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import ToolCall
from qwen3_mlx.options import AS_COMPUTED, CacheFormat
from qwen3_mlx.tools.consent import Decision, No
from qwen3_mlx.tools.events import LoopEvent
from qwen3_mlx.tools.tool import Tool

GREETING = "/help lists the commands; Ctrl-D leaves"


class LineChat:
    """A chat on a terminal, or through a pipe with one message a line."""

    def __init__(
        self,
        chat: Conversation,
        screen: Screen,
        *,
        hide_thinking: bool = False,
        debug: bool = False,
        context: int | None = None,
        cache_format: CacheFormat = AS_COMPUTED,
        adapter: Path | None = None,
        draft: str | None = None,
        save: bool = True,
    ) -> None:
        self.chat, self.screen, self._context, self._cache_format = (
            chat,
            screen,
            context,
            cache_format,
        )
        self._hide, self._debug, self._save = hide_thinking, debug, save
        self.interactive = is_terminal(sys.stdin) and screen.out_is_terminal
        self.failed, self._began, self._warned = False, False, False
        self._draft, self._drafts = "", draft
        self._adapter = (chat.name, adapter)

    def run(self) -> int:
        """Chat until the end of the input or /quit; returns the exit code.

        The code is 1 if a message that came through a pipe has failed.
        """
        if self.interactive:
            self.screen.note(f"{self.chat.name}: {self.chat.mode}. {GREETING}")
        with contextlib.closing(self._reader()) as reader:
            self._questions = LineQuestions(reader, self.screen)
            if self.chat.tools is not None:
                self._start_tools(self.chat.tools)
            self._talk(reader)
        return int(self.failed and not self.interactive)

    def _talk(self, reader: Reader) -> None:
        presses = 0
        while True:
            try:
                draft, self._draft = self._draft, ""
                line = reader.read(f"{self.chat.name} [{self.chat.mode}] > ", draft)
                presses = 0
                if line.strip() and not self._handle(line) and self._may_leave():
                    break
            except EOFError:
                if self._may_leave():
                    break
            except KeyboardInterrupt:
                if not is_terminal(sys.stdin):
                    raise  # nobody types here: Ctrl-C ends the program
                presses += 1
                if presses > 1:
                    self.screen.note("to leave: /quit or Ctrl-D")
            except OptionError as error:  # a line that is no UTF-8
                if not is_terminal(sys.stdin):
                    raise
                self.screen.error(error)

    def _may_leave(self) -> bool:
        """Whether to leave; one who types is told first what is lost, and asks again."""
        lost = self.chat.unkept() if self.interactive and not self._warned else ""
        if lost:
            self._warned = True
            self.screen.note(f"error: {lost}\nto leave without it: /quit or Ctrl-D again")
        return not lost

    def _start_tools(self, tools: ChatTools) -> None:
        """Start the servers: with the user's consent, or in a pipe those that are allowed."""
        if self.interactive:
            tools.ask_server = self._questions.server
        elif note := tools.only_allowed():
            self.screen.note(note)
        tools.start_all(lambda name: self.screen.note(f"starting {name}"))
        self.screen.notes(tools.remarks())

    def _start_server(self, tools: ChatTools, name: str) -> None:
        tools.start(name)
        self.screen.note(tools_commands.server_state(tools, tools.config(name)))

    def _ask_before_calls(self, turn: ToolTurn, tools: ChatTools, renderer: Renderer) -> None:
        """Ask the user about every tool call of `turn`; Ctrl-C at the question ends the turn."""

        def ask(call: ToolCall, tool: Tool) -> Decision:
            try:
                return self._questions.call(
                    call, tool, partial(renderer.show_call, is_question=True)
                )
            except KeyboardInterrupt:
                turn.stop()
                return No("they ended the turn")
            except EOFError:
                return No()

        tools.ask = ask

    def _reader(self) -> Reader:
        if not self.interactive or self.screen.is_dumb:
            return Lines(self.screen)
        return Prompt(
            folders.history_file() if self._save else None,
            [f"/{name}" for name in slash_commands.COMMANDS],
        )

    def _handle(self, line: str) -> bool:
        """Run a command or a turn; returns False to quit. Errors are shown, the chat goes on."""
        try:
            if not slash_commands.is_command(line):
                self._turn(line)
                return True
            outcome = slash_commands.run(self.chat, line)
            self.chat.keep()
            if outcome.text:
                self.screen.note(outcome.text)
            if outcome.edit is not None:
                self.screen.note(f"taken back: {outcome.edit}")
                self._draft = outcome.edit  # where no prompt can be edited the note is all
            if outcome.model is not None:
                self._switch(outcome.model)
            if outcome.start_server is not None and self.chat.tools is not None:
                self._start_server(self.chat.tools, outcome.start_server)
            if outcome.stop_server is not None and self.chat.tools is not None:
                self.screen.note(f"stopping {outcome.stop_server}")
                self.screen.note(self.chat.tools.stop(outcome.stop_server))
            if outcome.retry or outcome.send is not None:
                self._turn(outcome.send)
            return not outcome.quit
        except BrokenPipeError:
            raise
        except Exception as error:  # a bug or lack of memory must not end the conversation
            self.failed = True
            if self._debug:
                self.screen.trace(error)
            self.screen.error(error)
            if slash_commands.is_command(line) or not self._began:
                self._draft = line  # refused: the user can correct it
            return True

    def _switch(self, name: str) -> None:
        """Switch to the model `name`. Raises as `load.open_model`."""
        adapter = self._adapter[1] if name == self._adapter[0] else None
        model = load.open_model(
            name, self._context, self.screen, self._cache_format, adapter, self._drafts
        )
        if self.screen.is_watched and (outcome := try_kernels(model, self.screen.note)):
            self.screen.note(outcome)
        self.chat.adopt(model)
        if self._save:
            folders.remember_model(name)
        self.screen.note(f"from now on: {self.chat.name}, {self.chat.mode}")

    def _turn(self, text: str | None) -> None:
        """Send `text`, or (None) retry the last message, and print the reply."""
        self._began = self._warned = False
        progress = ProgressLine(self.screen, "reading the prompt")
        generation = self.chat.begin(
            None if text is None else self.chat.sending(text), on_progress=progress
        )
        renderer = Renderer(self.screen, self._answer_view(), hide_thinking=self._hide)
        if isinstance(generation, ToolTurn) and self.chat.tools is not None and self.interactive:
            self._ask_before_calls(generation, self.chat.tools, renderer)
        with (
            interrupts_turn(generation, answer_first=True) as presses,
            ends_after_turn(presses.stop),
        ):
            try:
                events = self._noticed(progress.cleared_by(presses.watch(generation)))
                if isinstance(generation, ToolTurn) and not self.screen.out_is_terminal:
                    events = only_last_answer(events, lambda text: self.screen.note(text.strip()))
                done = renderer.paint(events)
            finally:  # inside the handler, so that a late Ctrl-C can't prevent saving the turn
                progress.clear()
                generation.close()
                self.chat.keep()
        if done is not None:
            self.chat.count(done)
            limit = self.chat.session.options.max_tokens
            note = ending_note(done, limit, is_silent=renderer.is_silent)
            if self.interactive:
                about = UNANSWERED + "\n" if note == UNANSWERED else ""
                self.screen.note(f"\n{about}{footer(done, self.chat.budget)}\n")
            elif note:
                self.screen.note(note)
        self.chat.session.warm_in_background()  # while the user reads the answer

    def _noticed(self, events: Iterable[LoopEvent]) -> Iterator[LoopEvent]:
        """`events`; notes that the turn has begun, so its message wasn't refused."""
        for event in events:
            self._began = True
            yield event

    def _answer_view(self) -> AnswerView:
        if self.interactive and not self.screen.is_dumb and self.screen.is_utf8:
            from qwen3_mlx.cli.terminal.markdown import MarkdownAnswer

            return MarkdownAnswer(self.screen)
        return PlainAnswer(self.screen)
