"""Typed keys on a terminal: none is lost, and none answers a question asked after it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterator

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.output import DummyOutput

from qwen3_mlx.cli.chat.line_input import Lines, Prompt
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.cli.terminal.typed_ahead import typed_ahead

PATIENCE_S = 30.0
"""Only a failing test waits so long: its terminal is closed then."""


class Keyboard(DummyOutput):
    """A terminal's two ends; `at_prompt` is typed as soon as a prompt is drawn."""

    def __init__(self) -> None:
        self.hand, self.slave = pty.openpty()
        self.at_prompt: list[bytes] = []

    def type(self, keys: bytes) -> None:
        os.write(self.hand, keys)

    def enable_bracketed_paste(self) -> None:
        drawn = not termios.tcgetattr(self.slave)[3] & termios.ICANON
        if drawn and self.at_prompt:
            self.type(self.at_prompt.pop(0))


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keyboard]:
    keyboard = Keyboard()
    attributes = termios.tcgetattr(keyboard.slave)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(keyboard.slave, termios.TCSANOW, attributes)
    with os.fdopen(keyboard.slave, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        gone = threading.Timer(PATIENCE_S, os.close, [keyboard.hand])
        gone.start()
        yield keyboard
        gone.cancel()
    with contextlib.suppress(OSError):  # if it had to be closed before
        os.close(keyboard.hand)


@contextlib.contextmanager
def prompt(keyboard: Keyboard) -> Iterator[Prompt]:
    with create_app_session(output=keyboard):
        prompt = Prompt(None, ["/mcp"])
        try:
            yield prompt
        finally:
            prompt.close()


@pytest.mark.parametrize("key", [b"\x03", b"\x1b", b"\x15", b"\x1b\x1b", b"\x03\x03"])
@pytest.mark.parametrize("line", ["/mcp restart h", "back to it"])  # Alt-b would move a word back
@pytest.mark.parametrize("early", [False, True])
def test_a_line_behind_a_key_that_ends_something_is_sent(
    keyboard: Keyboard, key: bytes, line: str, early: bool
) -> None:
    """A program that is busy reads Ctrl-C, pressed as the turn ended, with the line behind it."""
    with prompt(keyboard) as reader:
        if early and b"\x03" not in key:
            keyboard.type(key + line.encode() + b"\r")
        else:
            keyboard.at_prompt.append(key + line.encode() + b"\r")
        for _ in range(key.count(b"\x03")):
            with pytest.raises(KeyboardInterrupt):
                reader.read("> ")
        assert reader.read("> ") == line


def test_ctrl_c_in_a_turn_leaves_the_lines_typed_before_it(keyboard: Keyboard) -> None:
    before = termios.tcgetattr(keyboard.slave)
    with prompt(keyboard) as reader:
        keyboard.type(b"one\rtwo\r\x03thr")
        assert [reader.read("> "), reader.read("> ")] == ["one", "two"]
        keyboard.at_prompt.append(b"ee\r")
        assert reader.read("> ") == "three"
    assert termios.tcgetattr(keyboard.slave) == before


@pytest.mark.parametrize("before", [b"", b"one\r"])
def test_ctrl_d_typed_ahead_ends_the_input(keyboard: Keyboard, before: bytes) -> None:
    """The terminal edits lines while the program is busy, and keeps Ctrl-D in a form of its own."""
    with prompt(keyboard) as reader:
        keyboard.type(before + b"\x04")
        if before:
            assert reader.read("> ") == "one"
        with pytest.raises(EOFError):
            reader.read("> ")


@pytest.mark.parametrize("together", [False, True])
def test_a_line_typed_ahead_is_not_added_to_a_draft(keyboard: Keyboard, together: bool) -> None:
    """A refused command came back into the input, and the next line went with it."""
    with prompt(keyboard) as reader:
        keyboard.type(b"/mcp x\rAdd 1 and 2\r" if together else b"/mcp x\r")
        assert reader.read("> ") == "/mcp x"
        if not together:
            keyboard.type(b"Add 1 and 2\r")
        assert reader.read("> ", "/mcp x") == "Add 1 and 2"
        keyboard.at_prompt.append(b"\x1b[A\x1b[A\r")
        assert reader.read("> ") == "/mcp x", "it is in the history"
        keyboard.at_prompt.append(b"y\r")
        assert reader.read("> ", "/mcp x") == "/mcp xy"


@pytest.mark.parametrize(
    ("typed", "then", "draft", "message"),
    [("go\rmore", "\r", "go", "more!"), ("go\ry\rmo", "re\r", "", "y\nmore!")],
    ids=["a draft stays apart", "lines that the prompt before read too"],
)
def test_what_was_typed_before_a_question_answers_nothing(
    typed: str, then: str, draft: str, message: str, keyboard: Keyboard
) -> None:
    with prompt(keyboard) as reader:
        keyboard.type(typed.encode())
        assert reader.read("> ") == "go"
        keyboard.type(then.encode())
        keyboard.at_prompt.append(b"n\r")
        assert reader.ask("run it? ") == "n"
        keyboard.at_prompt.append(b"!\r")
        assert reader.read("> ", draft) == message


@pytest.fixture
def bare(keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch) -> tuple[Lines, list[str]]:
    """A terminal without an editing prompt, and the prompts it shows."""
    shown: list[str] = []
    monkeypatch.setattr(Screen, "prompt", lambda _self, text: shown.append(text))
    return Lines(Screen()), shown


def test_a_bare_terminal_keeps_what_was_typed_before_a_question(
    keyboard: Keyboard, bare: tuple[Lines, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, shown = bare
    keyboard.type(b"go\ry\rmo")
    assert lines.read("> ") == "go"
    ask = answering(keyboard, lines, b"n\r", monkeypatch)
    assert ask("run it? ") == "n"
    keyboard.type(b"re\r")
    assert [lines.read("> "), lines.read("> ")] == ["y", "more"]
    assert shown[-1] == "> mo"


def test_ctrl_d_typed_before_the_full_screen_is_drawn_arrives_as_one(keyboard: Keyboard) -> None:
    keyboard.type(b"3+4\r\x04")
    assert select.select([keyboard.slave], [], [], PATIENCE_S)[0]  # the system has edited the line
    with typed_ahead() as typed:
        assert typed == "3+4\n\x04"


def test_ctrl_d_before_a_question_on_a_bare_terminal_is_no_text(
    keyboard: Keyboard, bare: tuple[Lines, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard.type(b"go\r\x04")
    assert bare[0].read("> ") == "go"
    assert answering(keyboard, bare[0], b"n\r", monkeypatch)("run it? ") == "n"
    keyboard.type(b"on\r")
    assert bare[0].read("> ") == "on"


def answering(
    keyboard: Keyboard, lines: Lines, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """`lines.ask`, with `answer` typed as soon as the question is shown."""

    def prompt(_self: Screen, text: str) -> None:
        keyboard.type(answer)

    def ask(question: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(Screen, "prompt", prompt)
            return lines.ask(question)

    return ask
