"""Pasted text is text: which Enter is a key, and what is left of control characters."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from qwen3_mlx.cli.terminal import paste
from qwen3_mlx.cli.terminal.paste import END, START, PasteReader, cleaned, is_pasted


class Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


class Input:
    """A terminal's input: a pipe with a reader at its end."""

    def __init__(self) -> None:
        self.end, self.start = os.pipe()
        self.clock = Clock()
        self.reader = PasteReader(self.end, self.clock)

    def read(self, *pieces: str | bytes) -> str:
        """What the reader makes of `pieces`, which come at once."""
        for piece in pieces:
            os.write(self.start, piece if isinstance(piece, bytes) else piece.encode())
        return self.reader.read()


@pytest.fixture
def terminal() -> Iterator[Input]:
    terminal = Input()
    yield terminal
    os.close(terminal.end)
    os.close(terminal.start)


@pytest.mark.parametrize(
    "burst",
    [
        "hello",
        "hello\r",  # typed ahead, or sent by a program
        "helo\x7flo\r",
        "/hel\t\r",
        "\r",
        "\r\r",
        "\x1b\r",  # Alt-Enter
        "\x1b[A\r",  # Up, Enter
        "\x1bOA\x1bOM",
        "\x1b[104u\x1b[13u",  # h, Enter of a terminal that reports all keys
        "\x1b[<0;3;4M",
        "hello\r\x1b[<35;3;4M\x1b[I",  # the mouse, the focus
        "\x1b[24;18R/no_think\r",  # the cursor's place, asked for with the prompt
        "/no_\x1b[24;18Rthink\r",
        "\x1b[?1;2chello\r\x1b[?0u\x1b[48;30;100;600;1000t",  # what it can, its keyboard, its size
        "\x03",
        "\x1b",
        "\x04",
        "\x03/mcp restart h\r",  # Ctrl-C as the turn ends, and a line: read at once
        "\x1b/mcp restart h\r",
        "\x1b\x15hello\r",
    ],
)
def test_keys_pass_as_they_are(terminal: Input, burst: str) -> None:
    assert not is_pasted(burst)
    assert terminal.read(burst) == burst


@pytest.mark.parametrize(
    ("burst", "text"),
    [
        ("one\rtwo\r", "one\rtwo\r"),
        ("\x1b[24;18Rone\rtwo\r", "one\rtwo\r"),
        ("one\rtwo", "one\rtwo"),
        ("\rone", "\rone"),
        ("one\ntwo\n", "one\ntwo\n"),
        ("one\x1b\rtwo\r", "one\rtwo\r"),
        ("\x1b[31mred\x1b[0m\r", "red\r"),
        ("\x1b[31m\r", "\r"),
        ("text\x1b[A\r", "text\r"),  # Up would have another line sent
        ("text\x1b[13u", "text"),
        ("text\x1bOM", "textOM"),
        ("N\x08NAME\r", "NNAME\r"),
        ("\x1b]0;title\x07text\r", "text\r"),
        ("\x1b]no end\rtwo\x07\r", "]no end\rtwo\r"),
        ("one\x03\rtwo\x04\r", "one\rtwo\r"),
        ("\u009b31mred\r", "31mred\r"),
        ("\x03one\rtwo\r", "one\rtwo\r"),
        ("\x04/quit\r", "/quit\r"),  # Ctrl-D would leave
        ("\x1b[Aagain\r", "again\r"),
    ],
)
def test_a_burst_with_an_enter_that_no_one_pressed_is_a_paste(
    terminal: Input, burst: str, text: str
) -> None:
    assert is_pasted(burst)
    assert terminal.read(burst) == f"{START}{text}{END}"


@pytest.mark.parametrize(
    "inside",
    [
        "alpha \x1b[31mred\x1b[0m\romega\r",
        f"a{END}\rb",
        f"a{START}b{END}{END}",
        "a\x1b",
        "a\x1b[20",
        "",
    ],
)
def test_what_a_bracketed_paste_holds_ends_it_no_earlier(terminal: Input, inside: str) -> None:
    assert terminal.read(START, inside, END) == f"{START}{cleaned(inside)}{END}"
    assert "\x1b" not in cleaned(inside)


def test_an_enter_right_behind_a_paste_belongs_to_it_and_a_later_one_is_a_key(
    terminal: Input,
) -> None:
    terminal.read(START, "a", END)
    assert terminal.read("\r") == f"{START}\r{END}"
    terminal.clock.now += 2 * paste.AFTER_S
    assert terminal.read("\r") == "\r"
    terminal.read("one\rtwo")
    assert terminal.read("x") == "x"


def test_a_paste_that_comes_in_pieces_is_one(terminal: Input) -> None:
    def write() -> None:
        for piece in (START[:4], START[4:] + "one\r", "tw", "o\r" + END[:3], END[3:]):
            os.write(terminal.start, piece.encode())
            time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert terminal.reader.read() == f"{START}one\rtwo\r{END}"
    finally:
        writer.join()


def test_a_paste_without_an_end_is_passed_on_and_keys_are_keys_again(
    terminal: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paste, "OPEN_S", 0.05)
    assert terminal.read(START, "text\r") == f"{START}text\r{END}"
    terminal.clock.now += 1
    assert terminal.read("\x03") == "\x03"
    assert terminal.read(f"rest\r{END}") == f"{START}rest\r{END}"  # it comes late


def test_what_was_typed_ahead_are_keys_and_a_paste_among_them_is_one(terminal: Input) -> None:
    os.write(terminal.start, b"one\ntwo\nthr")
    assert terminal.reader.typed_ahead() == "one\ntwo\nthr"
    os.write(terminal.start, f"one\n{START}a\x1b[31m{END}\nb{END}two\n".encode())
    assert terminal.reader.typed_ahead() == f"one\n{START}a\nb{END}two\n"
    assert terminal.reader.typed_ahead() == ""


def test_bytes_that_are_no_text_are_replaced_and_split_characters_are_whole(
    terminal: Input,
) -> None:
    assert terminal.read(b"a\xff") == "a\ufffd"
    letter = "é".encode()
    assert terminal.read(letter[:1]) + terminal.read(letter[1:]) == "é"


def test_a_long_paste_takes_linear_time(terminal: Input) -> None:
    text = "\x1b]line\r" * 200_000
    writer = threading.Thread(target=lambda: os.write(terminal.start, text.encode()))
    writer.start()
    began = time.thread_time()
    assert terminal.reader.read().count("\r") == 200_000
    writer.join()
    assert time.thread_time() - began < 5  # a quadratic reader takes minutes


def test_the_end_of_the_input(terminal: Input) -> None:
    os.close(terminal.start)
    assert terminal.reader.read() == "" and terminal.reader.closed
    terminal.start = os.dup(terminal.end)


def test_esc_before_a_line_is_no_alt() -> None:
    assert paste.with_escape("\x1b/quit\r", "<esc>") == "<esc>/quit\r"
    assert paste.with_escape("one\n\x1b\x1btwo\n", "<esc>") == "one\n<esc><esc>two\n"
    for keys in ("\x1b", "\x1bb", "\x1b\r", "\x1b[A\r", "\x1bOM", f"{START}a\r{END}"):
        assert paste.with_escape(keys, "<esc>") == keys
