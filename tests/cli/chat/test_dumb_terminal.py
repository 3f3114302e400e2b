"""The line-based chat's plain reader: a Ctrl-C, or a line that is no text, ends nothing."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qwen3_mlx.cli.chat import line_input
from qwen3_mlx.cli.terminal import stdin
from tests.cli.test_process import terminal


def test_ctrl_c_at_the_prompt_of_a_dumb_terminal_never_ends_the_chat(tmp_path: Path) -> None:
    with terminal("short", "chat", "8b", home=tmp_path, TERM="dumb") as process:
        process.until(r"fake \[thinking\] >")
        process.type("half a mess")
        process.type("\x03")
        process.until(r"\n[^\n]*fake \[thinking\] >")
        process.type("\x03")
        process.until("to leave: /quit or Ctrl-D")
        process.type("hi\n")
        process.until(r"It is \*\*4\*\*\.")
        process.prompt()
        process.type("\x03")
        process.prompt()
        process.type("\x04")
        assert process.end() == 0
        assert b"Traceback" not in process.seen and b"\x1b" not in process.seen


def test_a_ctrl_c_as_soon_as_the_prompt_is_seen_ends_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may come before the program waits for the line."""
    seen = list[str]()

    def prompt(text: str) -> None:
        seen.append(text)
        if text != "\n":
            raise KeyboardInterrupt

    monkeypatch.setattr(line_input, "is_terminal", lambda stream: True)
    screen: Any = SimpleNamespace(prompt=prompt)
    with pytest.raises(KeyboardInterrupt):
        line_input.Lines(screen).read("> ")
    assert seen == ["> ", "\n"]


def test_a_line_that_is_no_text_is_said_and_the_chat_on_a_terminal_goes_on(tmp_path: Path) -> None:
    with terminal("short", "chat", "8b", home=tmp_path, TERM="dumb") as process:
        process.until(r"fake \[thinking\] >")
        os.write(process.fd, b"na\xefve\n")
        process.until("stdin is not UTF-8: got byte 0xef at offset 2")
        process.type("hi\n")
        process.until(r"It is \*\*4\*\*\.")
        process.prompt()
        process.type("\x04")
        assert process.end() == 0


class Interrupted(io.BytesIO):
    """A terminal's input on which Ctrl-C is pressed before the second line."""

    pressed = False

    def readline(self, size: int | None = -1, /) -> bytes:
        if self.tell() and not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().readline(size)


def test_lines_go_on_behind_ctrl_c_and_behind_what_is_no_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Interrupted(b"one\ntwo\n\xff\nthree")))
    lines = stdin.Lines()
    assert next(lines) == "one"
    with pytest.raises(KeyboardInterrupt):
        next(lines)
    assert next(lines) == "two"
    with pytest.raises(Exception, match="byte 0xff at offset 8"):
        next(lines)
    assert list(lines) == ["three"]
