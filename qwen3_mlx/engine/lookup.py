"""Drafts from the conversation itself: what followed the same few tokens earlier in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.engine.sample import Sampler

SHORTEST, LONGEST = 3, 32
"""Tokens at the end that must have come before, and beyond which longer is no better."""

QUICKER = 64
"""Tokens noted in less time than a network reads one in."""

PLACES = 8
"""The latest places of the same tokens that are compared."""


class Lookup:
    """Finds the longest end of the conversation that came before; of equals, the latest."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], deque[int]] = {}
        self._noted = 0

    def begin(self) -> None:
        """As `Drafter.begin`."""
        self._ends, self._noted = {}, 0

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        """As `Drafter.follow`."""
        last = len(tokens) if most is None else min(len(tokens), self._noted + QUICKER * most)
        for end in range(max(self._noted + 1, SHORTEST), last + 1):
            key = tuple(tokens[end - SHORTEST : end])
            self._ends.setdefault(key, deque(maxlen=PLACES)).append(end)
        self._noted = max(self._noted, last)
        return self._noted >= len(tokens)

    def settle(self) -> None:
        """As `Drafter.settle`: nothing is ever under way."""

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
        found = [*tokens[best : best + most], last][:most]  # a place at the end goes on with it
        return mx.array(found, mx.uint32)


def _common(tokens: Sequence[int], end: int, recent: Sequence[int]) -> int:
    """How many tokens before `end` are those at the end of `recent`."""
    size = min(end, len(recent))
    for count in range(size):
        if tokens[end - 1 - count] != recent[-1 - count]:
            return count
    return size
