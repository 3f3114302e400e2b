"""Reads a terminal so that nothing in a pasted text acts as a key, above all not Enter.

A terminal may bracket a paste, but the pasted text may itself hold the end mark or other control
sequences; other terminals send a paste as if it were typed. So the reader takes all input that
arrives together as one burst, and returns a paste bracketed and without control characters.
"""

from __future__ import annotations

import os
import re
import select
import time
from codecs import getincrementaldecoder
from collections.abc import Callable

START, END = "\x1b[200~", "\x1b[201~"

CTRL_D = "\x04"

QUIET_S = 0.02
"""Seconds without input that end a burst; people type more slowly."""

AFTER_S = 0.1
"""Seconds after a paste in which a line end still belongs to it: long ones come in bursts."""

ESCAPE_S = 0.1
"""Seconds to wait after an ESC for the rest of a sequence, or for a line typed after Esc."""

OPEN_S = 1.0
"""Seconds to wait for the end of a bracketed paste before returning the text so far."""

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P^_X][^\x07\x1b\r\n]*(?:\x07|\x1b\\))")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_KEY = re.compile(r"\x1b(?:\[[\d;:]*[A-HPQRSZu~]|O[A-Za-z]|[\r\n])")
_REPORT = re.compile(r"\x1b\[(?:<[\d;]+[Mm]|[IO]|\?[\d;]+(?:\$y|[cu])|\d+;\d+R|\d+(?:;\d+)+t)")
"""Reports that terminals send between keys: mouse, focus, modes, capabilities, size, and the
cursor's position, for which prompt_toolkit asks at every prompt."""
_LEADING = re.compile(r"(?:\A|(?<=[\r\n]))(?:\x1b(?![\[\]OPX^_\r\n])|[\x03\x0c\x15])+")
"""Control keys before a line's text: Esc, Ctrl-C, Ctrl-L, Ctrl-U."""
_ENTER = re.compile(r"[\r\n]|\x1b(?:\[13[\d;:]*u|\[27;\d+;13~|OM)")


def is_pasted(burst: str) -> bool:
    """Whether `burst`, input that arrived together, holds an Enter that nobody pressed.

    Typed input is keys without text, or one line of text that ends in Enter, perhaps after control
    keys that a busy program has not read yet. Anything else with an Enter is a paste: several
    lines, or a line that holds a control character or sequence.
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
    """`keys` with `escape` for an Esc before a line's text; ESC plus a letter would mean Alt."""
    if not _ENTER.search(keys):
        return keys
    return _LEADING.sub(lambda found: found[0].replace("\x1b", escape), keys)


def with_ctrl_d(typed_ahead: str) -> str:
    """`typed_ahead` with its Ctrl-Ds: Linux keeps each as a NUL while the terminal edits lines."""
    return typed_ahead.replace("\0", CTRL_D)


def cleaned(text: str) -> str:
    """`text` without control sequences and characters, except tabs and line ends."""
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


class PasteReader:
    """Reads a terminal burst by burst. Not thread-safe."""

    def __init__(self, terminal: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal, self._clock = terminal, clock
        self._decode = getincrementaldecoder("utf-8")("replace").decode
        self._paste_ended = float("-inf")
        self.closed = False

    def read(self) -> str:
        """Wait for the next burst; a paste is bracketed. Sets `closed` at the end of the input."""
        began = self._clock()
        pieces = [self._piece()]
        end, seconds = pieces[0], _patience(pieces[0], 0.0)
        while not self.closed and seconds and self._is_ready(seconds):
            pieces.append(self._piece())
            end = end[-len(END) :] + pieces[-1]
            seconds = _patience(end, seconds)
        burst = "".join(pieces)
        continues = began < self._paste_ended + AFTER_S and _ENTER.search(burst)
        return self._bracketed(burst) if continues or is_pasted(burst) else burst

    def typed_ahead(self) -> str:
        """The input typed before the program could read it; every Enter counts as a key."""
        waiting = ""
        while not self.closed and self._is_ready(0):
            waiting += self._piece()
        typed, start, rest = with_ctrl_d(waiting).partition(START)
        pasted, _, later = rest.rpartition(END) if END in rest else (rest, "", "")
        return f"{typed}{self._bracketed(pasted)}{later}" if start else typed

    def _bracketed(self, burst: str) -> str:
        self._paste_ended = self._clock()
        return f"{START}{cleaned(burst)}{END}"

    def is_waiting(self) -> bool:
        """Whether input is available."""
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
    """Seconds to wait for more of a burst that ends in `end`; 0 if the burst is complete.

    before: the seconds waited for the last piece. A bracketed paste continues until its end.
    """
    start_at, end_at = end.rfind(START), end.rfind(END)
    if start_at > end_at or (before == OPEN_S and end_at < 0):
        return OPEN_S
    if end.endswith("\x1b"):
        return ESCAPE_S
    begins = any(end.endswith(START[:length]) for length in range(1, len(START)))
    return QUIET_S if before or begins or _ENTER.search(end) else 0.0
