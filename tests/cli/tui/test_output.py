"""What the full-screen chat writes to the terminal, and in how many pieces."""

from __future__ import annotations

from typing import Any

import pytest
from textual._ansi_sequences import SYNC_END, SYNC_START
from textual.drivers.headless_driver import HeadlessDriver
from textual.drivers.linux_driver import LinuxDriver

from qwen3_mlx.cli.tui.app import Chat
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.cli.tui.output import Output
from qwen3_mlx.options import GenerationOptions


class Wire:
    """A terminal's file, and what was written to it at each flush."""

    def __init__(self, error: OSError | None = None) -> None:
        self.pieces: list[str] = []
        self._unsent, self._error = "", error

    def write(self, text: str) -> None:
        self._unsent += text

    def flush(self) -> None:
        if self._error:
            raise self._error
        self.pieces.append(self._unsent)
        self._unsent = ""


def output(wire: Wire) -> Output:
    driver = Output.__new__(Output)  # without its terminal and its signals
    driver._file = wire  # type: ignore[assignment]
    return driver


def test_a_frame_goes_out_in_one_piece_and_all_else_at_once() -> None:
    wire = Wire()
    driver = output(wire)
    for piece in ("alt screen", SYNC_START, "some rows", "the cursor", SYNC_END, "bell"):
        driver.write(piece)
    frame = f"{SYNC_START}some rowsthe cursor{SYNC_END}"
    assert wire.pieces == ["alt screen", frame, "bell"]


def test_a_terminal_that_is_gone_ends_no_turn() -> None:
    wire = Wire(OSError(5, "Input/output error"))
    output(wire).write("a row")
    assert not wire.pieces


@pytest.mark.parametrize("named", [False, True])
def test_the_chat_writes_with_it_unless_another_is_named(
    named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named:
        name = f"{HeadlessDriver.__module__}:{HeadlessDriver.__name__}"
        monkeypatch.setattr("textual.constants.DRIVER", name)
    none: Any = None
    chat = Chat(ChatSetup("fake", none, GenerationOptions()))
    assert chat.driver_class is (HeadlessDriver if named else Output)
    assert issubclass(Output, LinuxDriver)
