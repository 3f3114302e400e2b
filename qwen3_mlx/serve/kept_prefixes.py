"""Computed conversations on disk, from the end of one server to the start of another."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.prefixes import Prefixes, common_prefix
from qwen3_mlx.engine.prompt_cache import PromptCache

SHORTEST = 1024
"""Tokens below which computing is as quick as reading a file."""
_LOG = logging.getLogger(__name__)


class KeptPrefixes:
    """Writes what `Prefixes` holds into a folder, and finds it there again."""

    def __init__(self, runtime: Runtime, store: PromptStore) -> None:
        self._runtime, self._store = runtime, store

    def restore(self, tokens: Sequence[int], cache: PromptCache) -> None:
        """Fill the empty `cache` with the longest beginning of `tokens` that is there."""
        if len(tokens) < SHORTEST:
            return
        if note := self._store.restore(self._runtime, tokens, cache):
            _LOG.info("%s", note)

    def save(self, prefixes: Prefixes) -> Generator[None]:
        """Write, a file a step: where conversations left each other, then each of them.

        The first serve new conversations with the same tools, the others those that go on.
        """
        for tokens, cache in _worth_keeping(prefixes):
            self._store.save(self._runtime, tokens, cache)
            yield


def _worth_keeping(prefixes: Prefixes) -> list[tuple[list[int], PromptCache]]:
    """Beginnings, each with a cache that holds it; the last used conversations first."""
    caches = prefixes.idle()[::-1]
    found: dict[tuple[int, ...], PromptCache] = {}
    for branch in reversed(prefixes.branches):
        for cache in caches:
            if common_prefix(cache.tokens, branch) == len(branch):
                found.setdefault(tuple(branch), cache)
    for cache in caches:
        found.setdefault(tuple(cache.tokens), cache)
    return [(list(tokens), cache) for tokens, cache in found.items() if len(tokens) >= SHORTEST]
