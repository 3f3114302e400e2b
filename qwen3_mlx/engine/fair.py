"""Who reads next, and how much at once: decisions about time, made without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP_SECONDS = 0.1
"""What a chunk of a prompt should take while others are answering: they wait for it."""
ALONE_SECONDS = 0.5
"""The same where nobody answers: who leaves or comes waits for one chunk."""
STARVED_SECONDS = 2.0
"""A prompt that got no chunk for so long comes first."""
SHORTEST, FIRST = 16, 64
"""Tokens of the shortest chunk, and of the first, from which the speed is learned."""


@dataclass(slots=True)
class ChunkPace:
    """Finds how many tokens of a prompt a given time has room for, as it goes."""

    rate: float = 0.0
    """Tokens a second, of the last chunk."""
    last: int = 0

    def size(self, seconds: float, most: int) -> int:
        """Tokens to read in about `seconds`, at most twice as many as last time."""
        if not self.rate:
            return min(FIRST, most)
        return max(1, min(most, max(SHORTEST, min(int(self.rate * seconds), 2 * self.last))))

    def took(self, tokens: int, seconds: float) -> None:
        """Learn from a chunk that was read."""
        self.rate, self.last = tokens / max(seconds, 1e-6), max(tokens, SHORTEST)


def next_reader(prompts: Sequence[tuple[int, float]], now: float) -> int:
    """Which of `prompts` gets the next chunk: pairs of tokens left, and when it got its last one.

    The one with the least left, so that a short prompt doesn't wait behind a long one; but first
    one that has waited for `STARVED_SECONDS`, the longest.
    """
    oldest = min(range(len(prompts)), key=lambda n: prompts[n][1])
    if now - prompts[oldest][1] >= STARVED_SECONDS:
        return oldest
    return min(range(len(prompts)), key=lambda n: prompts[n][0])
