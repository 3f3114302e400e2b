"""Decides when to probe a thought for its answer, and when the answers permit ending it.

This module computes no tokens: it reads the thought's bytes and the answers of the probes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qwen3_mlx.engine.short_answer import ShortAnswer

BACK_OFF = 1.5
"""The factor by which the interval grows after an uncertain probe."""

MISFITS = 2
"""Probes that found no short answer, or a tool call, after which no more are made."""

_ENDS = (b".", b"!", b"?", "。".encode(), "！".encode(), "？".encode())
_CLOSING = b" \"')]*_"


@dataclass(frozen=True, slots=True)
class ProbeRule:
    """A schedule's numbers, and the ids that a probe injects."""

    floor: int
    """Tokens of thinking before the first probe."""
    interval: int
    """Tokens between two probes, before backing off."""
    certainty: float
    """A thought may end if each token of the value has at least this probability."""
    slot_ids: tuple[int, ...]
    """The ids that a probe injects after the stop text; the model's short answer follows."""
    agreeing: int = 2
    """Consecutive probes that must give the same value, the last of them with certainty."""
    direct_certainty: float | None = None
    """Probe before any thought too, and answer at once if at least this certain; None: never."""
    direct_ids: tuple[int, ...] = ()
    """The ids of the empty think block that precedes such an answer."""


@dataclass(slots=True)
class ProbeSchedule:
    """The probes of one turn: after sentences outside code, at increasing intervals.

    spent: tokens that earlier steps of the same user turn have thought.
    """

    rule: ProbeRule
    spent: int = 0
    probes: int = 0
    tokens: int = 0
    """All tokens that probes have computed."""
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
        """Process the bytes of the thought's next token."""
        if b"`" in piece or self._ticks:
            self._read_fences(piece)
        said = piece.rstrip(_CLOSING)
        self._at_end = b"\n" in piece[-2:] or said.endswith(_ENDS) or (self._at_end and not said)

    def _read_fences(self, piece: bytes) -> None:
        """Three consecutive backticks open a code block, and the next three close it."""
        for byte in piece:
            self._ticks = self._ticks + 1 if byte == ord("`") else 0
            self._fence += self._ticks == 3

    def due(self, thinking_tokens: int) -> bool:
        """Whether to probe now, after `thinking_tokens` in this step."""
        if not self._at_end or self._fence % 2 or self._misfits >= MISFITS:
            return False
        return self.spent + thinking_tokens >= self._due

    def ends_thought(self, found: ShortAnswer | None, thinking_tokens: int) -> bool:
        """Record a probe's answer, None if it was no short answer; True if the thought may end."""
        sure = self.rule.certainty
        if found is None:
            self._misfits += 1
            self._last = None
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
        """Record the answer of the probe before any thought; True if no thought is needed."""
        self.direct = False
        least = self.rule.direct_certainty
        return found is not None and least is not None and found.certainty >= least
