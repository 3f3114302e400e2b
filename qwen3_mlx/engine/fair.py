"""Decides which prompt is read next and how many tokens at once; computes no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHUNK_SECONDS = 0.03
"""Seconds that a prompt's chunk may take while sequences decode, unless their steps take longer."""
CHUNK_STEPS = 1.5
"""A chunk may take this many of their steps' times, so they keep two fifths of their speed or more.

The longest gap between two of their tokens is then a step plus the longer of both limits, if a
chunk takes the predicted time.
"""
IDLE_SECONDS = 0.1
"""Target seconds of a chunk for which nobody waits: a new request waits for it."""
ALONE_SECONDS = 0.5
"""The same for a prompt while no sequence decodes: new or leaving requests wait for one chunk."""
STARVED_SECONDS = 2.0
"""Seconds without a chunk after which a prompt comes first."""
SHORTEST, FIRST = 4, 16
"""Tokens of the shortest chunk, and of the first one, from which the speed is learned."""
HARD_PAST = 1024
"""Past tokens that are assumed to cost a token as much as its matrices do, until measured.

Measured on the CPU with the demo: 3,000; computed from the operations for 8B: 24,000.
"""
QUICKER = 0.25
"""The share of a speed-up that is believed at once; a slow-down is believed in full."""


@dataclass(slots=True)
class ChunkPace:
    """Predicts how many tokens of a prompt fit into a given time.

    It is a bound, not a mean: one slow chunk shortens the next ones at once, and only several
    faster ones lengthen them again. A token after a longer past than measured is assumed to cost
    more, after a shorter one the same.
    """

    seconds: float = 0.0
    """Believed seconds per token; 0 before the first chunk."""
    past: float = 0.0
    """Tokens before the one to which `seconds` applies."""
    longest: int = 0
    """Tokens of the longest chunk so far."""

    def size(self, seconds: float, most: int, offset: int = 0) -> int:
        """Tokens to read in `seconds` after `offset` others, at most twice the longest chunk."""
        wanted = min(most, max(FIRST, 2 * self.longest))
        if self.seconds:
            harder = (HARD_PAST + offset + wanted / 2) / (HARD_PAST + self.past)
            fitting = int(seconds / (self.seconds * max(1.0, harder)))
            wanted = min(wanted, max(SHORTEST, fitting))
        else:
            wanted = min(wanted, FIRST)
        return max(1, wanted)

    def took(self, tokens: int, seconds: float, offset: int = 0) -> None:
        """Learn from a chunk that was read after `offset` tokens."""
        each = max(seconds, 1e-6) / tokens
        if each < self.seconds:
            each = self.seconds + QUICKER * (each - self.seconds)
        self.seconds, self.past = each, offset + tokens / 2
        self.longest = max(self.longest, tokens)


def next_reader(prompts: Sequence[tuple[int, float]], now: float) -> int:
    """The index of the prompt to read next; prompts: (tokens left, time of the last chunk) each.

    The one with the least left, so that a short prompt doesn't wait for a long one; but one that
    has waited for `STARVED_SECONDS` comes first, the longest-waiting before others.
    """
    oldest = min(range(len(prompts)), key=lambda n: prompts[n][1])
    if now - prompts[oldest][1] >= STARVED_SECONDS:
        return oldest
    return min(range(len(prompts)), key=lambda n: prompts[n][0])
