"""Saves the prompt caches of conversations when the server ends, and restores them later."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.prefixes import Prefixes, common_prefix
from qwen3_mlx.engine.prompt_cache import PromptCache

SHORTEST = 1024
"""Tokens below which a prefill is as fast as reading a file."""
_LOG = logging.getLogger(__name__)


class KeptPrefixes:
    """Saves the caches of `Prefixes` in a folder, and restores them from there."""

    def __init__(self, runtime: Runtime, store: PromptStore) -> None:
        self._runtime, self._store = runtime, store

    def restore(self, tokens: Sequence[int], cache: PromptCache, beyond: int = 0) -> None:
        """Fill the empty `cache` with the longest stored prefix of `tokens`, if it is worth it.

        beyond: tokens that are in memory.
        """
        if len(tokens) < SHORTEST:
            return
        if note := self._store.restore(self._runtime, tokens, cache, beyond):
            _LOG.info("%s", note)

    def save(self, prefixes: Prefixes) -> Generator[None]:
        """Write one file a step: first the prefixes at which conversations branched, then the rest.

        The branching points serve new conversations with the same tools, the rest continued ones.
        """
        for tokens, cache in _worth_keeping(prefixes):
            self._store.save(self._runtime, tokens, cache)
            yield


def _worth_keeping(prefixes: Prefixes) -> list[tuple[list[int], PromptCache]]:
    """The prefixes to save, each with a cache that holds it; the most recently used first."""
    caches = prefixes.idle()[::-1]
    found: dict[tuple[int, ...], PromptCache] = {}
    for branch in reversed(prefixes.branches):
        for cache in caches:
            if common_prefix(cache.tokens, branch) == len(branch):
                found.setdefault(tuple(branch), cache)
    for cache in caches:
        found.setdefault(tuple(cache.tokens), cache)
    return [(list(tokens), cache) for tokens, cache in found.items() if len(tokens) >= SHORTEST]
