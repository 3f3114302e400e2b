"""Decides which prompt is read next and how many tokens at once; computes no tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import NamedTuple

CHUNK_SECONDS = 0.03
"""Seconds that a prompt's chunk may take while sequences decode, unless their steps take longer."""
CHUNK_STEPS = 1.5
"""A chunk may take this many of their steps' times, so they keep two fifths of their speed or more.

The longest gap between two of their tokens is then a step plus the longest of these limits and
`OWN_TIMES`, if a chunk takes the predicted time.
"""
IDLE_SECONDS = 0.1
"""Target seconds of a chunk for which nobody waits: a new request waits for it."""
ALONE_SECONDS = 0.5
"""The same for a prompt while no sequence decodes: new or leaving requests wait for one chunk."""
STARVED_SECONDS = 2.0
"""Seconds without a chunk after which a prompt comes first."""
STALLED_SECONDS = 120.0
"""Seconds after which a sequence is ended whose listener accepts nothing."""
SHORTEST, FIRST = 4, 16
"""Tokens of the shortest chunk, or twice as many as in one after alike ones; and of the first one,
from which the speed is learned."""
HARD_PAST = 1024
"""Past tokens that are assumed to cost a token as much as its matrices do, until measured.

Measured on the CPU with the demo: 3,000; computed from the operations for 8B: 24,000.
"""
QUICKER, FREE, SLOWER = 0.25, 0.5, 4.0
"""What one chunk alone is believed: this share of a speed-up, or of one where tokens cost a pass
next to nothing, and a slow-down by at most this factor. What two in a row agree on is believed in
full: one may have been delayed by a compiler, another process or a laptop's sleep."""
OWN_TIMES = 2
"""A chunk may take this many times what a pass of few tokens takes, as the weights are read for any
number of tokens: with less time it would hardly be shorter, and read a few tokens only."""
RECENT, UNLIKE, LIKE_PAST, FEWEST_PAIRS = 8, 1.5, 1.25, 3
"""Chunks from which a pass's own time is taken, and the longest; the factor between lengths that
differ, and between pasts that don't; and how many pairs of chunks it takes."""


class Chunk(NamedTuple):
    """A chunk that was read."""

    tokens: int
    hard: float
    """How dear its past made each token: `HARD_PAST` and the tokens before the middle one."""
    seconds: float


@dataclass(slots=True)
class ChunkPace:
    """Predicts how many tokens of a prompt fit into a given time.

    A pass takes its own time, whatever it reads, and some for each token. It is a bound, not a
    mean: a slow chunk shortens the next one at once, and only two faster ones lengthen it again as
    much as the slower of both allows. A token after a longer past than measured is assumed to cost
    more, after a shorter one the same.
    """

    seconds: float = 0.0
    """Believed seconds per token, besides a pass's own; 0 before the first chunk."""
    past: float = 0.0
    """Tokens before the one to which `seconds` applies."""
    own: float = 0.0
    """Believed seconds of a pass besides its tokens'."""
    last: float = 0.0
    """Seconds per token of the last chunk."""
    recent: deque[Chunk] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The last chunks."""

    def size(self, seconds: float, most: int, offset: int = 0) -> int:
        """Tokens to read in `seconds` after `offset` others, at most twice a recent chunk's.

        If a pass of few tokens takes as long by itself, `seconds` are `OWN_TIMES` its time. After
        chunks of one length the next is half as long: only unlike ones tell a pass's own time.
        """
        wanted = min(most, max(FIRST, 2 * self._longest()))
        if self.seconds:
            harder = (HARD_PAST + offset + wanted / 2) / (HARD_PAST + self.past)
            left = max(seconds, OWN_TIMES * self.own) - self.own
            fitting = max(SHORTEST, int(left / (self.seconds * max(1.0, harder))))
            if fitting < wanted:
                wanted = fitting // 2 if self._are_alike() else fitting
        else:
            wanted = min(wanted, FIRST)
        return max(1, wanted)

    def took(self, tokens: int, seconds: float, offset: int = 0) -> None:
        """Learn from a chunk that was read after `offset` tokens."""
        self.recent.append(Chunk(tokens, HARD_PAST + offset + tokens / 2, seconds))
        own = own_seconds(self.recent)
        self.own = min(self.own if own is None else own, seconds)
        each = max(seconds - self.own, 1e-6) / tokens
        self.seconds, self.last = self._believed(each, seconds <= 1.5 * self.own), each
        self.past = offset + tokens / 2

    def _longest(self) -> int:
        return max((chunk.tokens for chunk in self.recent), default=0)

    def _are_alike(self) -> bool:
        """Whether all recent chunks had about the same length."""
        lengths = [chunk.tokens for chunk in self.recent]
        return len(lengths) == RECENT and max(lengths) < UNLIKE * min(lengths)

    def _believed(self, each: float, free: bool) -> float:
        """Seconds per token after a chunk that took `each`; free: hardly more than a pass's own."""
        if not self.seconds:
            return each
        if each >= self.seconds:
            return min(each, max(SLOWER * self.seconds, self.last))
        slowly = self.seconds + (FREE if free else QUICKER) * (each - self.seconds)
        return min(slowly, max(each, self.last))


def own_seconds(chunks: Sequence[Chunk]) -> float | None:
    """The seconds that each of `chunks` takes besides its tokens; None if they don't say.

    The median, over pairs of unlike length behind a like past, of where the line through both meets
    no tokens: a chunk that a compiler or another process delayed counts little (Theil 1950, Sen
    1968).
    """
    found = []
    for short, long in combinations(sorted(chunks), 2):
        alike = max(short.hard, long.hard) <= LIKE_PAST * min(short.hard, long.hard)
        if alike and long.tokens >= UNLIKE * short.tokens:
            each = (long.seconds - short.seconds) / (long.tokens - short.tokens)
            own = max(short.seconds - short.tokens * each, 0.0)
            found.append(min(own, short.seconds, long.seconds))
    return median(found) if len(found) >= FEWEST_PAIRS else None


def next_reader(prompts: Sequence[tuple[int, float]], now: float) -> int:
    """The index of the prompt to read next; prompts: (tokens left, time of the last chunk) each.

    The one with the least left, so that a short prompt doesn't wait for a long one; but one that
    has waited for `STARVED_SECONDS` comes first, the longest-waiting before others.
    """
    oldest = min(range(len(prompts)), key=lambda n: prompts[n][1])
    if now - prompts[oldest][1] >= STARVED_SECONDS:
        return oldest
    return min(range(len(prompts)), key=lambda n: prompts[n][0])
