"""Writes to the standard streams.

Answers and data go to stdout, everything else to stderr. ANSI codes are written to terminals only,
and text of a model or a foreign file can't send a terminal control sequences.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable
from typing import TextIO

from qwen3_mlx.errors import Qwen3Error, without_secrets
from qwen3_mlx.files import occupy_standard_descriptors

DIM, BOLD_RED, RESET = "\x1b[2m", "\x1b[1;31m", "\x1b[0m"

SMALLEST = (40, 10)
"""Columns and rows that the full-screen chat needs; below them the chat is line-based."""

_BIDI = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
_CONTROLS = {
    code: None for code in (*range(32), *range(127, 160), *_BIDI) if chr(code) not in "\n\t"
}
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    """`text` without C0 and C1 control characters (but newline and tab) and direction overrides.

    An override would reverse the rest of its line; right-to-left letters don't need one. All
    foreign text passes through here on its way to a terminal.
    """
    return text.translate(_CONTROLS)


def prepare_streams() -> None:
    """Make stdout and stderr accept any text in any locale, even if they are closed."""
    occupy_standard_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process: 2>&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 (for good)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def trust_terminal_size() -> None:
    """Remove COLUMNS and LINES from the environment if stdout's terminal reports its size.

    The variables don't follow when the user resizes the terminal, which breaks the layout.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if all(os.get_terminal_size(sys.stdout.fileno())):
            for name in ("COLUMNS", "LINES"):
                os.environ.pop(name, None)


def silence_stdout() -> None:
    """Discard the rest of stdout's buffer, whose reader is gone."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for good)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def describe(error: BaseException) -> str:
    """An error's text for the user, without secrets."""
    return without_secrets(_described(error))


def _described(error: BaseException) -> str:
    if isinstance(error, Qwen3Error):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return f"{type(error).__name__}: {error}\nhint: run again with --debug to see where"


class Screen:
    """stdout and stderr as they are now."""

    def __init__(self) -> None:
        self.out, self.err = sys.stdout, sys.stderr
        self.out_is_terminal = is_terminal(self.out)
        self.err_is_terminal = is_terminal(self.err)
        self.is_dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
        plain = self.is_dumb or bool(os.environ.get("NO_COLOR"))
        self.err_is_styled = self.err_is_terminal and not plain
        self.is_utf8 = (self.out.encoding or "").lower().replace("-", "") == "utf8"

    @property
    def is_watched(self) -> bool:
        """Whether stdin, stdout and stderr are all terminals, so a user is present."""
        return self.out_is_terminal and self.err_is_terminal and is_terminal(sys.stdin)

    @property
    def can_fill_terminal(self) -> bool:
        """Whether the full-screen chat can run here."""
        if not self.is_watched or self.is_dumb or not os.environ.get("TERM") or not self.is_utf8:
            return False
        try:
            size = os.get_terminal_size(self.out.fileno())
        except (OSError, ValueError):
            return False
        return size.columns >= SMALLEST[0] and size.lines >= SMALLEST[1]

    def answer(self, text: str) -> None:
        """Write a piece of an answer to stdout, unchanged unless stdout is a terminal."""
        self.out.write(printable(text) if self.out_is_terminal else text)
        self.out.flush()

    def json(self, text: str) -> None:
        """Write JSON to stdout; on a terminal, control characters become JSON escapes."""
        self.answer(text.translate(_ESCAPED) if self.out_is_terminal else text)

    def _tell(self, text: str) -> None:
        """Write to stderr; if that fails, as on a full disk, stdout's answer goes on without."""
        try:
            self.err.write(text)
            self.err.flush()
        except OSError:
            self.err = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for good)

    def prompt(self, text: str) -> None:
        """Ask for a line on stderr."""
        self._tell(printable(text))

    def line(self, text: str) -> None:
        """Draw `text` over the current line on stderr; an empty text erases the line."""
        self._tell(f"\r\x1b[K{DIM}{printable(text)}{RESET}" if text else "\r\x1b[K")

    def trace(self, error: BaseException) -> None:
        """Write an error's traceback to stderr, without secrets."""
        text = "".join(traceback.format_exception(error))
        self._tell(printable(without_secrets(text)))

    def thought(self, text: str) -> None:
        """Write a piece of a thought to stderr, dim."""
        text = printable(text) if self.err_is_terminal else text
        self._tell(f"{DIM}{text}{RESET}" if self.err_is_styled and text.strip() else text)

    def note(self, text: str) -> None:
        """Write a note to stderr, dim; on a terminal its lines wrap between words."""
        if self.err_is_terminal:
            width = shutil.get_terminal_size().columns
            text = "\n".join(textwrap.fill(line, width) for line in text.split("\n"))
        self.thought(f"{text}\n")

    def lines(self, texts: Iterable[str]) -> None:
        """Write lines to stderr, dim, without wrapping."""
        self.thought("".join(f"{text}\n" for text in texts))

    def notes(self, texts: Iterable[str]) -> None:
        """Write several notes."""
        for text in texts:
            self.note(text)

    def error(self, error: BaseException) -> None:
        """Write an error and its hint to stderr."""
        text = describe(error)
        mark = f"{BOLD_RED}error:{RESET}" if self.err_is_styled else "error:"
        with contextlib.suppress(OSError):  # the error may come from stdout itself
            self.out.flush()
        self._tell(f"{mark} {printable(text)}\n")
