"""Computes the beginnings of idle conversations' next prompts, while no sequence runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from qwen3_mlx.engine.fair import IDLE_SECONDS, ChunkPace
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prefixes import Prefixes
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.nn.transformer import Qwen3Network

MOST_IDLE = 8
"""Conversations whose caches are extended between turns: the most recent ones."""


class IdleWork:
    """Extends kept caches to the known beginnings of their next prompts, chunk by chunk."""

    def __init__(self, network: Qwen3Network, prefixes: Prefixes, pace: ChunkPace) -> None:
        self._network, self._prefixes, self._pace = network, prefixes, pace
        self._caches: list[tuple[PromptCache, Callable[[], Sequence[int]]]] = []

    def add(self, cache: PromptCache, lasting: Callable[[], Sequence[int]]) -> None:
        """Queue `cache` for computing the ids of `lasting`, unless a turn takes the cache first."""
        self._caches = [*self._caches[1 - MOST_IDLE :], (cache, lasting)]

    def forget_taken(self) -> None:
        """Drop the queued caches that are stored no longer, above all those that a turn has taken.

        When the turn stores its cache again, the beginning that was known before it is out of date:
        to hold exactly that one, the cache would lose what the turn has computed.
        """
        self._caches = [one for one in self._caches if one[0] in self._prefixes]

    def clear(self) -> None:
        """Drop all queued caches."""
        self._caches.clear()

    def step(self) -> bool:
        """Compute one chunk; False if none is left."""
        while self._caches:
            cache, lasting = self._caches[0]
            try:
                ids = list(lasting()) if cache in self._prefixes else []
                if ids and self._chunk(cache, ids):
                    return True
            except Exception:  # this only saves work: a lasting fault will fail the next turn
                logging.getLogger(__name__).debug("keeping a prefix warm failed", exc_info=True)
            self._caches.pop(0)
        return False

    def _chunk(self, cache: PromptCache, ids: list[int]) -> bool:
        done, began = cache.keep(ids), time.monotonic()
        size = self._pace.size(IDLE_SECONDS, len(ids) - done, done)
        if done == len(ids):
            return False
        with cache.filling():
            prefill(self._network, ids[done : done + size], cache, size)
        self._pace.took(size, time.monotonic() - began, done)
        return True
