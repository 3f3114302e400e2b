"""The standard streams: what may be written to them, and how.

Answers and data go to stdout, everything else to stderr. ANSI codes appear on terminals only, and
nothing a model (or a stranger's file) says can send a terminal a control sequence.
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

DIM, BOLD_RED, RESET = "\x1b[2m", "\x1b[1;31m", "\x1b[0m"

SMALLEST = (40, 10)
"""Columns and rows below which a chat goes by lines."""

_BIDI = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
_CONTROLS = {
    code: None for code in (*range(32), *range(127, 160), *_BIDI) if chr(code) not in "\n\t"
}
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    """`text` without C0 and C1 control characters, and without overrides of direction.

    Newline and tab stay. An override would turn round whatever else stands in its row;
    right-to-left letters need none. Every text of somebody else's passes here on its way to a
    terminal.
    """
    return text.translate(_CONTROLS)


def prepare_streams() -> None:
    """Let stdout and stderr take any text, whatever the locale can encode, and even if closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us: 2>&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 (for good)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def trust_terminal_size() -> None:
    """Forget COLUMNS and LINES where stdout is a terminal that knows its own size.

    A person can resize a terminal, but not a variable: whatever is painted by the variable tears.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if all(os.get_terminal_size(sys.stdout.fileno())):
            for name in ("COLUMNS", "LINES"):
                os.environ.pop(name, None)


def silence_stdout() -> None:
    """Send the rest of stdout's buffer nowhere: its reader has gone."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for good)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def describe(error: BaseException) -> str:
    """An error as its user should read it."""
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
        """Whether a person sits before it: nothing is piped."""
        return self.out_is_terminal and self.err_is_terminal and is_terminal(sys.stdin)

    @property
    def can_fill_terminal(self) -> bool:
        """Whether a full-screen chat can be shown here."""
        if not self.is_watched or self.is_dumb or not os.environ.get("TERM") or not self.is_utf8:
            return False
        try:
            size = os.get_terminal_size(self.out.fileno())
        except (OSError, ValueError):
            return False
        return size.columns >= SMALLEST[0] and size.lines >= SMALLEST[1]

    def answer(self, text: str) -> None:
        """Write a piece of an answer to stdout; raw where stdout is no terminal."""
        self.out.write(printable(text) if self.out_is_terminal else text)
        self.out.flush()

    def json(self, text: str) -> None:
        """Write JSON to stdout; what a terminal must not get is spelled as an escape there."""
        self.answer(text.translate(_ESCAPED) if self.out_is_terminal else text)

    def prompt(self, text: str) -> None:
        """Ask for a line on stderr."""
        self.err.write(printable(text))
        self.err.flush()

    def line(self, text: str) -> None:
        """Draw `text` over the terminal's current line on stderr; nothing takes it away."""
        self.err.write(f"\r\x1b[K{DIM}{printable(text)}{RESET}" if text else "\r\x1b[K")
        self.err.flush()

    def trace(self, error: BaseException) -> None:
        """Where an error comes from, on stderr, without what might be a token of somebody's."""
        text = "".join(traceback.format_exception(error))
        self.err.write(printable(without_secrets(text)))
        self.err.flush()

    def thought(self, text: str) -> None:
        """Write a piece of a thought to stderr, dim."""
        text = printable(text) if self.err_is_terminal else text
        self.err.write(f"{DIM}{text}{RESET}" if self.err_is_styled and text.strip() else text)
        self.err.flush()

    def note(self, text: str) -> None:
        """Write a remark to stderr, dim; on a terminal its lines break between words."""
        if self.err_is_terminal:
            width = shutil.get_terminal_size().columns
            text = "\n".join(textwrap.fill(line, width) for line in text.split("\n"))
        self.thought(f"{text}\n")

    def lines(self, texts: Iterable[str]) -> None:
        """Lines to stderr, dim, as they are: none is broken."""
        self.thought("".join(f"{text}\n" for text in texts))

    def notes(self, texts: Iterable[str]) -> None:
        """Remarks, one below the other."""
        for text in texts:
            self.note(text)

    def error(self, error: BaseException) -> None:
        """An error and its hint, on stderr."""
        text = describe(error)
        mark = f"{BOLD_RED}error:{RESET}" if self.err_is_styled else "error:"
        with contextlib.suppress(OSError):  # it may be stdout that failed
            self.out.flush()
        self.err.write(f"{mark} {printable(text)}\n")
        self.err.flush()
