"""When to ask a thought for its answer, and when the answers say that it has thought enough.

Nothing here computes: it reads the bytes of a thought and the answers that probes gave.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qwen3_mlx.engine.short_answer import ShortAnswer

BACK_OFF = 1.5
"""How much longer the next interval is behind a probe that did not end the thought."""

MISFITS = 2
"""Probes without a short answer, or that would call a tool: behind so many no more come."""

_ENDS = (b".", b"!", b"?", "。".encode(), "！".encode(), "？".encode())
_CLOSING = b" \"')]*_"


@dataclass(frozen=True, slots=True)
class ProbeRule:
    """The numbers that a schedule follows, and the ids that a probe puts in."""

    floor: int
    """Tokens of thinking before the first probe."""
    interval: int
    """Tokens from one probe to the next, before backing off."""
    certainty: float
    """The least probability, of each token of the value, that ends a thought."""
    slot_ids: tuple[int, ...]
    """What a probe puts behind the stop text; the model's short answer follows."""
    agreeing: int = 2
    """Probes in a row that must give the same value, the last of them surely."""
    direct_certainty: float | None = None
    """Ask before any thought too, and answer at once where the value is so sure; None: never."""
    direct_ids: tuple[int, ...] = ()
    """The empty think block that such an answer stands behind."""


@dataclass(slots=True)
class ProbeSchedule:
    """The probes of one turn: at ends of sentences outside code, ever further apart.

    `spent` are the tokens that earlier steps of the same user turn have thought.
    """

    rule: ProbeRule
    spent: int = 0
    probes: int = 0
    tokens: int = 0
    """All tokens that probes computed."""
    seconds: float = 0.0
    direct: bool = field(init=False)
    """Whether the turn may still begin with a probe."""
    _due: float = field(init=False)
    _interval: float = field(init=False)
    _last: str | None = None
    _agreeing: int = 0
    _misfits: int = 0
    _at_end: bool = False
    _fence: int = 0
    _ticks: int = 0

    def __post_init__(self) -> None:
        self._due, self._interval = self.rule.floor, self.rule.interval
        self.direct = self.rule.direct_certainty is not None and not self.spent

    def read(self, piece: bytes) -> None:
        """Take the bytes of the thought's next token."""
        if b"`" in piece or self._ticks:
            self._read_fences(piece)
        said = piece.rstrip(_CLOSING)
        self._at_end = b"\n" in piece[-2:] or said.endswith(_ENDS) or (self._at_end and not said)

    def _read_fences(self, piece: bytes) -> None:
        """Three backticks in a row begin a block of code, and the next three end it."""
        for byte in piece:
            self._ticks = self._ticks + 1 if byte == ord("`") else 0
            self._fence += self._ticks == 3

    def due(self, thinking_tokens: int) -> bool:
        """Whether to probe here, behind so many tokens of thinking in this step."""
        if not self._at_end or self._fence % 2 or self._misfits >= MISFITS:
            return False
        return self.spent + thinking_tokens >= self._due

    def ends_thought(self, found: ShortAnswer | None, thinking_tokens: int) -> bool:
        """Take what a probe found, None if it found no short answer: is the thought to end?"""
        sure = self.rule.certainty
        if found is None:
            self._misfits += 1
            self._last, self._agreeing = None, 0
        else:
            self._agreeing = self._agreeing + 1 if found.value == self._last else 1
            self._last = found.value
            if self._agreeing >= self.rule.agreeing and found.certainty >= sure:
                return True
        self._due = self.spent + thinking_tokens + self._interval
        if found is None or found.certainty < sure:
            self._interval *= BACK_OFF
        return False

    def answers_directly(self, found: ShortAnswer | None) -> bool:
        """Take what the probe before any thought found: is there to be no thought?"""
        self.direct = False
        least = self.rule.direct_certainty
        return found is not None and least is not None and found.certainty >= least
