"""Drafts from the conversation itself: the tokens that followed the same few tokens before."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.engine.sample import Sampler

SHORTEST, LONGEST = 3, 32
"""The shortest repeated ending that counts, and the length beyond which longer is no better."""

QUICKER = 64
"""This many tokens are indexed in less time than a network reads one."""

PLACES = 8
"""Occurrences of the same tokens that are compared: the latest."""


class Lookup:
    """Finds the longest earlier occurrence of the conversation's ending; of equals, the latest."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], deque[int]] = {}
        self._noted = 0

    def begin(self) -> None:
        """Drop the index: the conversation may have been cut."""
        self._ends, self._noted = {}, 0

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        """As `Drafter.follow`; most: counted in tokens of a network, so `QUICKER` times as many."""
        last = len(tokens) if most is None else min(len(tokens), self._noted + QUICKER * most)
        for end in range(max(self._noted + 1, SHORTEST), last + 1):
            key = tuple(tokens[end - SHORTEST : end])
            self._ends.setdefault(key, deque(maxlen=PLACES)).append(end)
        self._noted = max(self._noted, last)
        return self._noted >= len(tokens)

    def settle(self) -> None:
        """As `Drafter.settle`: nothing is ever pending."""

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array | None:
        """As `Drafter.propose`; waits for ``drawn``."""
        self.follow(tokens)
        last = drawn.item()
        assert isinstance(last, int)
        recent = [*tokens[-LONGEST:], last]
        places = self._ends.get(tuple(recent[-SHORTEST:]), ())
        best = max(places, key=lambda end: (_common(tokens, end, recent), end), default=None)
        if best is None:
            return None
        found = [*tokens[best : best + most], last][:most]  # at the end `last` follows
        return mx.array(found, mx.uint32)


def _common(tokens: Sequence[int], end: int, recent: Sequence[int]) -> int:
    """How many tokens before `end` equal those at the end of `recent`."""
    size = min(end, len(recent))
    for count in range(size):
        if tokens[end - 1 - count] != recent[-1 - count]:
            return count
    return size
