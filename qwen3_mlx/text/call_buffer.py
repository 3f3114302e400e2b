"""Collects the pieces of a tool call, and the places where it may have ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from qwen3_mlx.text.call_deltas import CallDeltas
from qwen3_mlx.text.coder_call import FUNCTION, inside_value
from qwen3_mlx.text.loose_json import JsonScanner
from qwen3_mlx.text.markers import Marker, Piece

_MOST_CUTS = 32


@dataclass(slots=True)
class CallBuffer:
    """Collects the pieces behind a ``<tool_call>``, or those of a bare ``<function=f>``.

    A marker within a string or a parameter's value may be part of it, or the call may be damaged:
    the buffer keeps it as a cut, a place where the call ended if nothing better comes.
    """

    opener: str
    """The text in front of it, to be shown if it is no call."""
    pieces: list[Piece] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    tries: int = 0
    """How often a ``</function>`` of a bare call turned out to be within a value."""
    deltas: CallDeltas | None = None
    """Where they are asked for."""
    _scanner: JsonScanner | None = None
    _is_json: bool | None = None

    def append(self, piece: Piece) -> None:
        """Take one piece of the call."""
        text = piece.value if isinstance(piece, Marker) else piece
        self.pieces.append(piece)
        if self._is_json is None and (start := text.lstrip()[:1]):
            self._is_json = start != "<"
            self._scanner = JsonScanner() if self._is_json else None
        if self._scanner:
            self._scanner.push(text)

    def cut(self, marker: Marker) -> None:
        """Take a marker that may end the call, or be part of it."""
        if self.deltas:
            self.deltas.stop()
        self.cuts.append(len(self.pieces))
        self.append(marker)

    @property
    def is_full(self) -> bool:
        """Whether the call has more unclear places than it may wait for."""
        return max(len(self.cuts), self.tries) >= _MOST_CUTS

    @property
    def text(self) -> str:
        """All pieces, joined."""
        return joined(self.pieces)

    @property
    def is_bare(self) -> bool:
        """Whether no ``<tool_call>`` came before it."""
        return not self.opener

    def may_go_on(self) -> bool:
        """Whether a marker that comes now may be part of a string or of a value."""
        if self._scanner:
            return self._scanner.in_string
        return inside_value(self.text) or self._nested() > 0

    def _nested(self) -> int:
        """Calls within a value, as an example of one has them, that are still open."""
        depth = 0
        for index in self.cuts:
            if self.pieces[index] is Marker.TOOL_CLOSE:
                depth = max(depth - 1, 0)
            else:
                behind = joined(self.pieces[index + 1 :]).lstrip()
                depth += behind.startswith("{") or FUNCTION.match(behind) is not None
        return depth


def joined(pieces: list[Piece]) -> str:
    """The text of pieces, markers as they are spelled."""
    return "".join([piece if isinstance(piece, str) else piece.value for piece in pieces])
