"""Reads a chat's messages from an editing prompt, a plain terminal, or a pipe."""

from __future__ import annotations

import contextlib
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from qwen3_mlx.cli.chat import input_history
from qwen3_mlx.cli.terminal import stdin
from qwen3_mlx.cli.terminal.interrupt import interruptible
from qwen3_mlx.cli.terminal.paste import PasteReader, cleaned, with_escape
from qwen3_mlx.cli.terminal.screen import Screen, is_terminal, printable
from qwen3_mlx.cli.terminal.typed_ahead import typed_ahead

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


class Reader(Protocol):
    """A source of messages."""

    def read(self, prompt: str, draft: str = "") -> str:
        """The next message; an editing prompt starts with `draft`.

        Raises `EOFError` at the end, `KeyboardInterrupt` for Ctrl-C.
        """

    def ask(self, question: str, draft: str = "") -> str:
        """The answer to a question; input typed before the question was shown is not an answer.

        The answer doesn't enter the history. Raises as `read`.
        """

    def close(self) -> None:
        """Restore the terminal's state."""


class Lines:
    """Reads one message per line; on a terminal the prompt is drawn on stderr."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._is_terminal = screen, is_terminal(sys.stdin)
        self._lines: Iterator[str] = stdin.Lines()
        self._waiting, self._partial = deque[str](), ""

    def read(self, prompt: str, draft: str = "") -> str:
        """The next line of stdin."""
        if self._waiting:
            return self._waiting.popleft()
        partial, self._partial = self._partial, ""
        return partial + self._next(f"{prompt}{partial}")

    def _next(self, prompt: str) -> str:
        try:  # a Ctrl-C may come as soon as the prompt is seen
            if self._is_terminal:
                self._screen.prompt(prompt)
            line = next(self._lines, None)
        except KeyboardInterrupt:
            if self._is_terminal:
                self._screen.prompt("\n")  # the terminal's ^C ends the line
            raise
        if line is None:
            raise EOFError
        return line

    def ask(self, question: str, draft: str = "") -> str:
        """The next line typed from now on; the draft is only shown.

        Complete lines typed earlier become the next messages; an incomplete one starts the message
        after them.
        """
        if self._is_terminal:
            with typed_ahead() as typed:
                *lines, self._partial = f"{self._partial}{cleaned(typed)}".split("\n")
            self._waiting.extend(lines)
        if draft:
            self._screen.note(draft)
        with interruptible():
            return self._next(question)

    def close(self) -> None:
        """Do nothing: the terminal's state is unchanged."""


class Prompt:
    """An editing prompt: history across runs, multi-line paste, completion of commands."""

    def __init__(self, history: Path | None, commands: list[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.input.vt100 import Vt100Input

        source = Vt100Input(sys.stdin)
        self._restore = _keep_typed_lines(source.fileno())
        self._keys = PromptKeys(source.fileno())
        source.stdin_reader = cast(Any, self._keys)
        self._typed_earlier = ""
        self._session: PromptSession[str] = PromptSession(
            input=source,
            history=_history(history),
            completer=WordCompleter(commands, sentence=True),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="",
            enable_open_in_editor=True,
            enable_suspend=True,
        )

    def read(self, prompt: str, draft: str = "") -> str:
        """The text typed or pasted before Enter. The draft gives way to what was typed earlier.

        That is a message of its own, and the draft is in the history.
        """
        earlier, self._typed_earlier = self._typed_earlier, ""
        if self._keys.begin() or self._has_read_ahead():
            draft = ""
        return self._prompt(self._session, prompt, earlier or draft)

    def _has_read_ahead(self) -> bool:
        """Whether the last prompt has read more than the line that it returned."""
        from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead

        keys = get_typeahead(self._session.input)
        store_typeahead(self._session.input, keys)
        return bool(keys)

    def ask(self, question: str, draft: str = "") -> str:
        """The text typed before Enter; earlier input is saved for the next message."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.input.typeahead import get_typeahead

        earlier = "".join(key.data for key in get_typeahead(self._session.input))
        self._typed_earlier += self._keys.put_aside(earlier)
        session: PromptSession[str] = PromptSession(
            input=self._session.input,
            output=self._session.output,
            history=InMemoryHistory(),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="",
        )
        with interruptible():
            return self._prompt(session, question, draft)

    def _prompt(self, session: PromptSession[str], prompt: str, draft: str) -> str:
        try:
            return session.prompt(printable(prompt), default=draft)
        finally:  # keep pastes distinguishable from typing while the model answers
            self._session.output.enable_bracketed_paste()
            self._session.output.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._session.output.disable_bracketed_paste()
        self._session.output.flush()
        self._restore()


def _keep_typed_lines(terminal: int) -> Callable[[], None]:
    """Make the terminal keep lines typed before a Ctrl-C; returns a function that undoes it.

    A terminal discards them by default, so interrupting a turn would lose the next messages.
    """
    try:
        before = termios.tcgetattr(terminal)
        attributes = [*before[:3], before[3] | termios.NOFLSH, *before[4:]]
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    except termios.error:  # no terminal, or a disconnected one
        return lambda: None

    def restore() -> None:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)

    return restore


class PromptKeys:
    """Adapts `PasteReader` to prompt_toolkit's stdin reader."""

    def __init__(self, terminal: int) -> None:
        self._reader, self._is_typed_ahead = PasteReader(terminal), False

    @property
    def closed(self) -> bool:
        """Whether the input has ended."""
        return self._reader.closed

    def begin(self) -> bool:
        """Note that a prompt begins; whether lines wait: typed ahead, each of them is sent."""
        self._is_typed_ahead = self._reader.is_waiting()
        return self._is_typed_ahead

    def put_aside(self, earlier: str) -> str:
        """The input typed before a question was shown, which must not answer it.

        earlier: input that the last prompt read after the Enter that ended it.
        """
        typed = self._reader.typed_ahead() if self._reader.is_waiting() else ""
        return cleaned(f"{earlier}{typed}").replace("\r", "\n").strip("\n")

    def read(self) -> str:
        """The waiting input; "" if there is none."""
        typed_ahead, self._is_typed_ahead = self._is_typed_ahead, False
        if typed_ahead:
            keys = self._reader.typed_ahead()
        else:
            keys = self._reader.read() if self._reader.is_waiting() else ""
        return with_escape(keys, "")  # Esc alone does nothing at a prompt


def _history(path: Path | None) -> History:
    """The history file as prompt_toolkit's history; errors of reading or writing are ignored."""
    from prompt_toolkit.history import History, InMemoryHistory

    class FileHistory(History):
        def load_history_strings(self) -> list[str]:
            return list(reversed(input_history.read(path)))

        def store_string(self, string: str) -> None:
            input_history.add(path, string)

    return InMemoryHistory() if path is None else FileHistory()


def _keys() -> KeyBindings:
    from prompt_toolkit.filters import is_searching
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    bind: Callable[..., Callable[[Callable[[KeyPressEvent], None]], object]] = keys.add

    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    def clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    # In a search (Ctrl-R) the current buffer is the searched-for text, and these keys are the
    # search's own: leaving the prompt from there would leave the keys of all later ones in it.
    bind("enter", filter=~is_searching)(send)
    bind("escape", "enter", filter=~is_searching)(new_line)
    bind("c-c", filter=~is_searching)(clear)
    return keys
