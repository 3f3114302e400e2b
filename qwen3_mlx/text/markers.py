"""Token ids to pieces: text, and the markers that give it structure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from qwen3_mlx.text.detokenize import StreamDetokenizer
from qwen3_mlx.text.tokenizer import THINK_CLOSE, THINK_OPEN, TOOL_CLOSE, TOOL_OPEN, Tokenizer


class Marker(Enum):
    """A token that says what the text around it is; the value is its spelling."""

    THINK_OPEN = THINK_OPEN
    THINK_CLOSE = THINK_CLOSE
    TOOL_OPEN = TOOL_OPEN
    TOOL_CLOSE = TOOL_CLOSE
    END = ""  # of the turn, or another token of the format: never shown, however it is spelled


Piece = str | Marker


class MarkerStream:
    """Turns ids into pieces as they come.

    Markers are told by their token ids. Those that the vocabulary lacks are told by their text,
    wherever the tokens split it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = {
            Marker.THINK_OPEN: tokenizer.think_open,
            Marker.THINK_CLOSE: tokenizer.think_close,
            Marker.TOOL_OPEN: tokenizer.tool_open,
            Marker.TOOL_CLOSE: tokenizer.tool_close,
        }
        self._markers = {token: marker for marker, token in ids.items() if token is not None}
        self._markers |= dict.fromkeys(tokenizer.eos_ids | tokenizer.special_ids, Marker.END)
        self._text = StreamDetokenizer(tokenizer)
        self._scanner = _Scanner(marker.value for marker, token in ids.items() if token is None)

    def push(self, token: int) -> list[Piece]:
        """The pieces that `token` completes."""
        marker = self._markers.get(token)
        if marker is None:
            return self._scanner.push(self._text.push(token))
        return [*self.flush(), marker]

    def flush(self) -> list[Piece]:
        """The text held back: an unfinished character, the beginning of a spelled marker."""
        return [*self._scanner.push(self._text.flush()), *self._scanner.flush()]


class _Scanner:
    """Finds spelled markers in text that comes in pieces."""

    def __init__(self, spellings: Iterable[str]) -> None:
        self._spellings = tuple(spellings)
        self._pattern = re.compile("({})".format("|".join(map(re.escape, self._spellings))))
        self._held = ""

    def push(self, text: str) -> list[Piece]:
        if not self._spellings:
            return [text] if text else []
        *parts, tail = self._pattern.split(self._held + text)  # text, marker, text, marker, …
        keep = len(tail) - self._open_marker(tail)
        self._held = tail[keep:]
        pieces = [Marker(part) if n % 2 else part for n, part in enumerate(parts)]
        return [piece for piece in (*pieces, tail[:keep]) if piece]

    def flush(self) -> list[Piece]:
        held, self._held = self._held, ""
        return [held] if held else []

    def _open_marker(self, text: str) -> int:
        """How many characters at the end of `text` may begin a marker."""
        at = text.rfind("<")
        begun = at >= 0 and any(spelling.startswith(text[at:]) for spelling in self._spellings)
        return len(text) - at if begun else 0
