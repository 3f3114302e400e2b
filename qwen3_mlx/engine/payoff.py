"""Measures whether checking drafts pays now, by tokens per second with and without drafts."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

from qwen3_mlx.events import Speculation

SIZES = (1, 3, 7)
"""Drafts per step: few sizes, because each is compiled separately."""

LEARNING, ROUNDS, MOST_TOKENS = 5, 8, 64
"""Plain steps before the first trial; rounds and tokens after which a trial is judged."""

LEAST, HOPELESS, HOPELESS_ROUNDS = 1.05, 0.7, 2
"""Drafts stop below the first gain; a trial ends early below the second after these rounds."""

HARMLESS = 0.97
"""Relative speed at which a fruitless search for drafts is acceptable."""

FIRST_WAIT, LONGEST_WAIT = 256, 8192
"""Plain steps before the next trial; doubled whenever drafts don't pay, up to the second."""


@dataclass(slots=True)
class _Trial:
    tokens: int = 0
    rounds: int = 0
    seconds: float = 0.0
    worth: float = 0.0
    """Seconds that as many plain steps would take."""

    @property
    def gain(self) -> float:
        """Speed relative to plain steps; 0 before the first step."""
        return self.worth / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Payoff:
    """Decides how many drafts the next step checks, and learns from the time of each step."""

    off: str = ""
    """Why drafts are off now; empty if they are on."""
    turn: Speculation = field(default_factory=Speculation)
    """The drafts' results in this turn."""
    _plain: deque[float] = field(default_factory=lambda: deque(maxlen=15))
    _trial: _Trial = field(default_factory=_Trial)
    _total: _Trial = field(default_factory=_Trial)
    _size: int = 1
    _left: int = 0
    _wait: int = FIRST_WAIT
    _met: set[int] = field(default_factory=set)
    _broken: bool = False

    def begin_turn(self) -> None:
        """Reset the counts of the turn."""
        self.turn, self._total = Speculation(off=self.off), _Trial()

    @property
    def wanted(self) -> int:
        """Drafts that the next step should check; 0: none."""
        return 0 if self._left or self._broken else SIZES[self._size]

    @property
    def drafts(self) -> int:
        """As `wanted`, for a step without other sequences: plain steps are timed first."""
        return self.wanted if len(self._plain) >= LEARNING else 0

    @property
    def begins(self) -> bool:
        """Whether the next step with drafts begins a trial."""
        return not self._trial.tokens

    def plain(self, seconds: float) -> None:
        """Learn from a step of this sequence alone for which no drafts were requested."""
        self._plain.append(seconds)
        self.passed()

    def passed(self) -> None:
        """Count a step for which no drafts were requested."""
        self._left = max(self._left - 1, 0)

    def round(self, seconds: float, drafted: int, accepted: int) -> None:
        """Learn from a step for which drafts were requested; it gave ``accepted + 1`` tokens.

        The first step of each size is not judged, because it includes compiling.
        """
        if drafted and drafted not in self._met:
            self._met.add(drafted)
            self._count(drafted, accepted)
            return
        known = statistics.median(self._plain) if self._plain else seconds / (accepted + 1)
        self.shared(seconds, drafted, accepted, known)

    def shared(self, seconds: float, drafted: int, accepted: int, plain: float | None) -> None:
        """As `round`, for a step shared with others; seconds: this sequence's part of it.

        plain: seconds per token without drafts, None if the step can't be judged.
        """
        if drafted:
            self._count(drafted, accepted)
        if plain is None:
            return
        for sums in (self._trial, self._total):
            sums.tokens += accepted + 1
            sums.rounds += drafted > 0
            sums.seconds += seconds
            sums.worth += (accepted + 1) * plain
        trial = self._trial
        hopeless = trial.rounds >= HOPELESS_ROUNDS and trial.gain < HOPELESS
        if hopeless or trial.rounds >= ROUNDS or trial.tokens >= MOST_TOKENS:
            self._judge(trial.gain)
        self._say()

    def give_up(self, reason: str) -> None:
        """Turn drafts off for the rest of this conversation."""
        self._broken, self.off = True, reason
        self._say()

    def _count(self, drafted: int, accepted: int) -> None:
        turn = self.turn
        counts = (turn.rounds + 1, turn.drafted + drafted, turn.accepted + accepted)
        self.turn = Speculation(*counts, turn.gain, turn.off)
        if accepted == drafted and drafted == SIZES[self._size]:
            self._size = min(self._size + 1, len(SIZES) - 1)
        elif accepted * 2 < drafted:
            self._size = max(self._size - 1, 0)

    def _judge(self, gain: float) -> None:
        met, self._trial = self._trial.rounds > 0, _Trial()
        if self._broken:  # a step before the fault is judged after it; its reason stays
            return
        if gain >= LEAST or (not met and gain >= HARMLESS):
            self.off, self._wait = "", FIRST_WAIT if met else self._wait
            return
        self.off = f"{gain:.2f} × the speed of plain steps"
        self._left, self._wait = self._wait, min(2 * self._wait, LONGEST_WAIT)
        self._size = 1

    def _say(self) -> None:
        turn, gain = self.turn, round(self._total.gain, 3)
        self.turn = Speculation(turn.rounds, turn.drafted, turn.accepted, gain, self.off)
