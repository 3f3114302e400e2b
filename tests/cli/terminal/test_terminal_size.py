"""A terminal's own size holds, whatever COLUMNS and LINES say: a variable can't be resized."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from qwen3_mlx.cli.terminal.screen import trust_terminal_size

termios = pytest.importorskip("termios", reason="no terminals of POSIX here")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, "33")
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stdout:
        yield stdout
    os.close(master)


def kept(stdout: TextIO | None) -> set[str]:
    """The variables that are left. Pytest has a stdout of its own for each phase of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        trust_terminal_size()
    return {"COLUMNS", "LINES"} & set(os.environ)


def test_a_terminals_own_size_wins(terminal: TextIO) -> None:
    termios.tcsetwinsize(terminal.fileno(), (12, 50))
    assert kept(terminal) == set()


def test_a_terminal_that_does_not_know_its_size_keeps_the_variables(terminal: TextIO) -> None:
    termios.tcsetwinsize(terminal.fileno(), (0, 0))
    assert kept(terminal) == {"COLUMNS", "LINES"}


@pytest.mark.usefixtures("terminal")
def test_a_file_and_a_closed_stdout_keep_the_variables(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        assert kept(file) == {"COLUMNS", "LINES"}
    assert kept(file) == kept(None) == {"COLUMNS", "LINES"}
