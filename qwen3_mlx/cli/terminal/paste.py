"""Reads a terminal so that pasted text is text: none of it acts as a key, least of all Enter.

A terminal that brackets pastes says where one begins and ends, but the text in it may hold the mark
of the end, or any other control sequence. Other terminals send a paste as if it were typed. So what
comes at once is read at once, and a paste leaves here bracketed and without control characters.
"""

from __future__ import annotations

import os
import re
import select
import time
from codecs import getincrementaldecoder
from collections.abc import Callable

START, END = "\x1b[200~", "\x1b[201~"

QUIET_S = 0.02
"""Seconds without input that end a burst. Between two keys of a person lie more."""

AFTER_S = 0.1
"""Seconds behind a paste in which a line end belongs to it: a long one comes in several bursts."""

ESCAPE_S = 0.1
"""Seconds behind an ESC in which more makes it a sequence, or Esc and a line that follows."""

OPEN_S = 1.0
"""Seconds to wait for the end of a bracketed paste before the text so far is passed on."""

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P^_X][^\x07\x1b\r\n]*(?:\x07|\x1b\\))")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_KEY = re.compile(r"\x1b(?:\[[\d;:]*[A-HPQRSZu~]|O[A-Za-z]|[\r\n])")
_REPORT = re.compile(r"\x1b\[(?:<[\d;]+[Mm]|[IO]|\?[\d;]+(?:\$y|[cu])|\d+;\d+R|\d+(?:;\d+)+t)")
"""Reports of the mouse, the focus, and of the terminal itself, which come between keys: its modes,
what it can, where the cursor is (prompt_toolkit asks at each prompt), its size."""
_LEADING = re.compile(r"(?:\A|(?<=[\r\n]))(?:\x1b(?![\[\]OPX^_\r\n])|[\x03\x0c\x15])+")
"""Keys that end or clear something, before a line's text: Esc, Ctrl-C, Ctrl-L, Ctrl-U."""
_ENTER = re.compile(r"[\r\n]|\x1b(?:\[13[\d;:]*u|\[27;\d+;13~|OM)")


def is_pasted(burst: str) -> bool:
    """Whether `burst`, all that came at once, holds an Enter that no one has pressed.

    Typed are: keys without text among them, and text with Enter behind it, and before it keys that
    end or clear something: a busy program reads them with the line behind them. Whatever else has
    an Enter is a paste: several lines, or one with a control character or a sequence in it.
    """
    if START in burst or END in burst:
        return True
    if not _ENTER.search(burst):
        return False
    keys = _REPORT.sub("", burst)
    if not _KEY.sub("", keys).strip("\r\n"):
        return False
    line = _LEADING.sub("", keys, count=1).rstrip("\r\n")
    typed = line.replace("\t", "").replace("\x7f", "")  # Tab and Backspace
    return bool(_CONTROL.search(typed)) or "\r" in line or "\n" in line


def with_escape(keys: str, escape: str) -> str:
    """`keys` with Esc before a line's text as `escape`: ESC and a letter would be Alt-letter."""
    if not _ENTER.search(keys):
        return keys
    return _LEADING.sub(lambda found: found[0].replace("\x1b", escape), keys)


def cleaned(text: str) -> str:
    """`text` without control sequences and control characters; tabs and line ends stay."""
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


class PasteReader:
    """The input of a terminal, burst by burst. The methods are for one thread at a time."""

    def __init__(self, terminal: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal, self._clock = terminal, clock
        self._decode = getincrementaldecoder("utf-8")("replace").decode
        self._paste_ended = float("-inf")
        self.closed = False

    def read(self) -> str:
        """The next burst, a paste in it bracketed; waits for one. At the end `closed` is set."""
        began = self._clock()
        pieces = [self._piece()]
        end, seconds = pieces[0], _patience(pieces[0], 0.0)
        while not self.closed and seconds and self._is_ready(seconds):
            pieces.append(self._piece())
            end = end[-len(END) :] + pieces[-1]
            seconds = _patience(end, seconds)
        burst = "".join(pieces)
        goes_on = began < self._paste_ended + AFTER_S and _ENTER.search(burst)
        return self._bracketed(burst) if goes_on or is_pasted(burst) else burst

    def typed_ahead(self) -> str:
        """The text typed before the program could read it, each Enter as a key."""
        waiting = ""
        while not self.closed and self._is_ready(0):
            waiting += self._piece()
        typed, start, rest = waiting.partition(START)
        pasted, _, later = rest.rpartition(END) if END in rest else (rest, "", "")
        return f"{typed}{self._bracketed(pasted)}{later}" if start else typed

    def _bracketed(self, burst: str) -> str:
        self._paste_ended = self._clock()
        return f"{START}{cleaned(burst)}{END}"

    def is_waiting(self) -> bool:
        """Whether there is something to read."""
        return self._is_ready(0)

    def _is_ready(self, seconds: float) -> bool:
        return bool(select.select([self._terminal], [], [], seconds)[0])

    def _piece(self) -> str:
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:  # the terminal is gone
            data = b""
        self.closed = not data
        return self._decode(data)


def _patience(end: str, before: float) -> float:
    """Seconds to wait for more of a burst that ends in `end`; 0 if it can be passed on at once.

    `before`: the seconds to wait for what came last. A paste that has begun goes on until its end.
    """
    begun, ended = end.rfind(START), end.rfind(END)
    if begun > ended or (before == OPEN_S and ended < 0):
        return OPEN_S
    if end.endswith("\x1b"):
        return ESCAPE_S
    begins = any(end.endswith(START[:length]) for length in range(1, len(START)))
    return QUIET_S if before or begins or _ENTER.search(end) else 0.0
