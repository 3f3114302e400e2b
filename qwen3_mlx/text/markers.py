"""Splits token ids into text and the markers that structure a turn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from qwen3_mlx.text.detokenize import StreamDetokenizer
from qwen3_mlx.text.tokenizer import THINK_CLOSE, THINK_OPEN, TOOL_CLOSE, TOOL_OPEN, Tokenizer


class Marker(Enum):
    """A token that structures the text; the value is its spelling."""

    THINK_OPEN = THINK_OPEN
    THINK_CLOSE = THINK_CLOSE
    TOOL_OPEN = TOOL_OPEN
    TOOL_CLOSE = TOOL_CLOSE
    END = ""  # the end of the turn, or another special token: never shown


Piece = str | Marker


class MarkerStream:
    """Turns token ids into pieces incrementally.

    Markers are recognised by their token ids; those that the vocabulary lacks, by their text,
    also across token borders.
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
        """End the text; returns what was held back: a partial character or a partial marker."""
        return [*self._scanner.push(self._text.flush()), *self._scanner.flush()]


class _Scanner:
    """Finds markers by their spelling in text that arrives in pieces."""

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
        """The number of characters at the end of `text` that may begin a marker."""
        at = text.rfind("<")
        begun = at >= 0 and any(spelling.startswith(text[at:]) for spelling in self._spellings)
        return len(text) - at if begun else 0
