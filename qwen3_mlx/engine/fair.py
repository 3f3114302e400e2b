"""Who reads next, and how much at once: decisions about time, made without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHUNK_SECONDS = 0.03
"""What a chunk of a prompt may take while others are answering, unless their steps take longer."""
CHUNK_STEPS = 1.5
"""Of their steps' time: so they write at two fifths of their speed at least, and don't stand still.

The longest gap between two of their tokens is then a step and the longer of both, if a chunk takes
the time that was foreseen.
"""
IDLE_SECONDS = 0.1
"""What a chunk should take that nobody waits for: who comes waits for it."""
ALONE_SECONDS = 0.5
"""The same for a prompt while nobody answers: who leaves or comes waits for one chunk."""
STARVED_SECONDS = 2.0
"""A prompt that got no chunk for so long comes first."""
SHORTEST, FIRST = 4, 16
"""Tokens of the shortest chunk, and of the first, from which the speed is learned."""
HARD_PAST = 1024
"""Tokens of a past that are taken to cost a token as much as its matrices do, until measured.

On the CPU it was 3,000 with the demo; from the operations alone 24,000 with 8B.
"""
QUICKER = 0.25
"""How much of it is believed when a chunk was quicker than was foreseen; slower is believed all."""


@dataclass(slots=True)
class ChunkPace:
    """Foresees how many tokens of a prompt a given time has room for.

    A bound and not a mean: one chunk that took long makes the next ones short at once, and several
    that didn't make them longer again. Behind a longer past than was measured a token is taken to
    cost more, behind a shorter one as much.
    """

    seconds: float = 0.0
    """A token's, as far as is believed; 0 before the first chunk."""
    past: float = 0.0
    """Tokens before the one that took so long."""
    longest: int = 0
    """Tokens of the longest chunk so far."""

    def size(self, seconds: float, most: int, offset: int = 0) -> int:
        """Tokens to read in `seconds` behind `offset` others, at most twice the longest so far."""
        wanted = min(most, max(FIRST, 2 * self.longest))
        if self.seconds:
            harder = (HARD_PAST + offset + wanted / 2) / (HARD_PAST + self.past)
            fitting = int(seconds / (self.seconds * max(1.0, harder)))
            wanted = min(wanted, max(SHORTEST, fitting))
        else:
            wanted = min(wanted, FIRST)
        return max(1, wanted)

    def took(self, tokens: int, seconds: float, offset: int = 0) -> None:
        """Learn from a chunk that was read behind `offset` tokens."""
        each = max(seconds, 1e-6) / tokens
        if each < self.seconds:
            each = self.seconds + QUICKER * (each - self.seconds)
        self.seconds, self.past = each, offset + tokens / 2
        self.longest = max(self.longest, tokens)


def next_reader(prompts: Sequence[tuple[int, float]], now: float) -> int:
    """Which of `prompts` gets the next chunk: pairs of tokens left, and when it got its last one.

    The one with the least left, so that a short prompt doesn't wait behind a long one; but first
    one that has waited for `STARVED_SECONDS`, the longest.
    """
    oldest = min(range(len(prompts)), key=lambda n: prompts[n][1])
    if now - prompts[oldest][1] >= STARVED_SECONDS:
        return oldest
    return min(range(len(prompts)), key=lambda n: prompts[n][0])
