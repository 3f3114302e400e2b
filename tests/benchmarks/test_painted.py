"""What the chat's benchmark takes for painted, on a pseudo-terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.painting import interval
from benchmarks.terminal import Terminal
from benchmarks.tui import first_painted

HEADING = (
    "\x1b[5;1H ▸ thought 5 tokens\x1b[6;1H ▾ thinking 0 · 0.1 s\x1b[24;1H thinking 5 │ 517 tok/s"
)
ROW = "\x1b[7;1H\x1b[2m │ \x1b[0m517 * 23."


@pytest.fixture
def screen() -> Iterator[Terminal]:
    """Paints a heading and a status at once, and half a second later a row of the thought."""
    code = (
        "import sys, time\n"
        f"sys.stdout.write({HEADING!r}); sys.stdout.flush(); time.sleep(0.5)\n"
        f"sys.stdout.write({ROW[:9]!r}); sys.stdout.flush(); time.sleep(0.1)\n"
        f"sys.stdout.write({ROW[9:]!r}); sys.stdout.flush(); time.sleep(60)\n"
    )
    terminal = Terminal([sys.executable, "-c", code], {"PYTHONIOENCODING": "utf-8"})
    yield terminal
    terminal.close()


def test_a_heading_is_no_token(screen: Terminal) -> None:
    screen.until("517 tok/s")
    began = time.perf_counter()
    turn = {"thought": "517 * 23. 23 is", "pressed": began}
    with pytest.raises(LookupError, match="was not painted"):
        first_painted(screen, turn)
    screen.until("517 * 23")
    assert first_painted(screen, turn) > 0.3
    with pytest.raises(LookupError):
        first_painted(screen, turn | {"thought": "931 * 77"})


def test_keys_forget_what_was_painted(screen: Terminal) -> None:
    screen.until("517 * 23")
    assert screen.when("thinking") < screen.when(r"517 \*")
    screen.send("x")
    with pytest.raises(LookupError):
        screen.when("thinking")


def test_a_code_in_two_pieces_is_no_text(screen: Terminal) -> None:
    screen.until("517 * 23")
    assert b"\x1b" not in screen.text and b"[2m" not in screen.text


def test_where_the_median_lies() -> None:
    assert interval(range(101)) == (40, 60)
    assert interval([3.0]) == (3.0, 3.0)
