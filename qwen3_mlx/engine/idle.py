"""What is computed while nobody waits: the beginnings of the next prompts of idle conversations."""

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
"""Conversations that are kept warm between turns: the last ones."""


class IdleWork:
    """Brings kept caches up to what their next prompts begin with, a chunk at a time."""

    def __init__(self, network: Qwen3Network, prefixes: Prefixes, pace: ChunkPace) -> None:
        self._network, self._prefixes, self._pace = network, prefixes, pace
        self._caches: list[tuple[PromptCache, Callable[[], Sequence[int]]]] = []

    def add(self, cache: PromptCache, lasting: Callable[[], Sequence[int]]) -> None:
        """Compute the ids of `lasting` into `cache`, unless a turn takes the cache before."""
        self._caches = [*self._caches[1 - MOST_IDLE :], (cache, lasting)]

    def clear(self) -> None:
        """Drop all caches that wait to be brought up."""
        self._caches.clear()

    def step(self) -> bool:
        """Compute one chunk; False if there is nothing to compute."""
        while self._caches:
            cache, lasting = self._caches[0]
            try:
                ids = list(lasting()) if cache in self._prefixes else []
                if ids and self._chunk(cache, ids):
                    return True
            except Exception:  # it only saves work: what really fails will fail in the next turn
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
