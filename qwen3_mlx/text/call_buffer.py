"""Collects the pieces of a tool call, and the positions where it may have ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from qwen3_mlx.text.call_deltas import CallDeltas
from qwen3_mlx.text.coder_call import FUNCTION, inside_value
from qwen3_mlx.text.loose_json import JsonScanner
from qwen3_mlx.text.markers import Marker, Piece

_MOST_CUTS = 32


@dataclass(slots=True)
class CallBuffer:
    """Collects the pieces after a ``<tool_call>``, or those of a bare ``<function=f>``.

    A marker within a string or a parameter's value may be part of it, or the call may be damaged.
    The buffer records it as a cut: the call ended there if the whole text can't be parsed.
    """

    opener: str
    """The text of the opening marker, shown if this is no call; "" for a bare call."""
    pieces: list[Piece] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    tries: int = 0
    """How often a ``</function>`` was tried as the end of a bare call."""
    deltas: CallDeltas | None = None
    """Makes the call's deltas; None if they are not requested."""
    _scanner: JsonScanner | None = None
    _is_json: bool | None = None

    def append(self, piece: Piece) -> None:
        """Append a piece of the call."""
        text = piece.value if isinstance(piece, Marker) else piece
        self.pieces.append(piece)
        if self._is_json is None and (start := text.lstrip()[:1]):
            self._is_json = start != "<"
            self._scanner = JsonScanner() if self._is_json else None
        if self._scanner:
            self._scanner.push(text)

    def cut(self, marker: Marker) -> None:
        """Append a marker that may end the call or be part of it, and record a cut there."""
        if self.deltas:
            self.deltas.stop()
        self.cuts.append(len(self.pieces))
        self.append(marker)

    @property
    def is_full(self) -> bool:
        """Whether the call has reached `_MOST_CUTS` possible ends."""
        return max(len(self.cuts), self.tries) >= _MOST_CUTS

    @property
    def text(self) -> str:
        """The text of all pieces, markers included."""
        return joined(self.pieces)

    @property
    def is_bare(self) -> bool:
        """Whether the call began without ``<tool_call>``."""
        return not self.opener

    def may_go_on(self) -> bool:
        """Whether a marker at this point may be part of a string or of a parameter's value."""
        if self._scanner:
            return self._scanner.in_string
        return inside_value(self.text) or self._nested() > 0

    def _nested(self) -> int:
        """The number of open calls quoted within a value, such as in an example."""
        depth = 0
        for index in self.cuts:
            if self.pieces[index] is Marker.TOOL_CLOSE:
                depth = max(depth - 1, 0)
            else:
                behind = joined(self.pieces[index + 1 :]).lstrip()
                depth += behind.startswith("{") or FUNCTION.match(behind) is not None
        return depth


def joined(pieces: list[Piece]) -> str:
    """The text of `pieces`, markers by their spelling."""
    return "".join([piece if isinstance(piece, str) else piece.value for piece in pieces])
