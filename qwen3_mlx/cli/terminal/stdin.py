"""Reads stdin, files and arguments as UTF-8; errors name the offending byte."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from qwen3_mlx.cli.terminal.screen import is_terminal
from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import SMALL, read_given

MOST = SMALL
"""The most bytes that are read as one text; a million tokens, the longest context, have fewer.

What never ends (``yes | qwen3-mlx generate``) must not fill the memory.
"""


def piped_text() -> str:
    """All of stdin without a byte order mark; "" if stdin is a terminal or closed.

    Raises `OptionError` for more than `MOST` bytes, or bytes that are not UTF-8.
    """
    if sys.stdin is None or sys.stdin.closed or is_terminal(sys.stdin):
        return ""
    return decoded(_no_more_than_most(sys.stdin.buffer.read(MOST + 1)))


def _no_more_than_most(data: bytes) -> bytes:
    """`data`. Raises `OptionError` for more than `MOST` bytes."""
    if len(data) <= MOST:
        return data
    raise OptionError(
        "stdin has too much for a prompt",
        got=f"more than {MOST:,} bytes",
        expected="a text that the context has room for",
        hint="take a part of it, for example: head -c 10000 FILE | qwen3-mlx …",
    )


class Lines:
    """The lines of stdin without line ends, each as soon as it arrives.

    No generator, which a Ctrl-C at the prompt would end: the next line can be read after it, and
    after a line that isn't UTF-8.
    """

    def __init__(self) -> None:
        self._offset = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = sys.stdin.buffer.readline(MOST + 1) if sys.stdin is not None else b""
        if not line:
            raise StopIteration
        _no_more_than_most(line)
        offset, self._offset = self._offset, self._offset + len(line)
        return decoded(line, offset).rstrip("\r\n")


def decoded(data: bytes, offset: int = 0) -> str:
    """Decode `data`, which begins at byte `offset` of stdin. Raises `OptionError`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(
            "stdin is not UTF-8",
            got=f"byte 0x{data[error.start]:02x} at offset {offset + error.start}",
            expected="UTF-8 text",
            hint="convert it first, for example: iconv -f latin1 -t utf-8 FILE | qwen3-mlx …",
        ) from None
    return text.removeprefix("\ufeff") if offset == 0 else text


def text_of(path: Path) -> str:
    """The text of a file. Raises `OptionError` if it is unreadable, not UTF-8, or empty."""
    hint = "name a text file"
    try:
        text = read_given(path).decode("utf-8-sig")
    except OSError as error:
        raise OptionError(f"{path} can't be read", got=error.strerror, hint=hint) from None
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise OptionError(f"{path} is not UTF-8 text", got=got, hint=hint) from None
    if not text.strip():
        raise OptionError(f"{path} is empty", hint=hint)
    return text


def argument(text: str) -> str:
    """A command-line argument as UTF-8 in any locale. Raises `OptionError`."""
    data = text.encode("utf-8", "surrogateescape")  # restores the typed bytes
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        hint = "set a UTF-8 locale, or pipe the text in"
        raise OptionError(f"{text!r} is not UTF-8", got=got, hint=hint) from None
