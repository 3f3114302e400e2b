"""Stores the caches of computed prompts, for prompts with the same beginning."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qwen3_mlx.engine.prompt_cache import PromptCache

SHORTEST = 16
"""Common tokens below which copying a cache doesn't pay."""
MOST_BRANCHES = 8
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class PrefixCounts:
    """The store's state in numbers: caches, bytes, the limit in bytes, evictions."""

    entries: int
    nbytes: int
    limit: int
    evictions: int


class Prefixes:
    """Caches of conversations that wait for their next turn, the least recently used first.

    They take at most `limit` bytes together. If the next prompt keeps most of a cache, it gets
    the cache itself; otherwise the common rows are copied, so that both conversations keep theirs.
    """

    def __init__(self, new_cache: Callable[[], PromptCache], limit: int) -> None:
        self._first_cache, self.limit = new_cache, limit
        self._pattern: PromptCache | None = None
        """An empty cache, whose fused step all others share."""
        self._idle: list[PromptCache] = []
        self.evictions = 0
        self.branches: deque[list[int]] = deque(maxlen=MOST_BRANCHES)
        """Beginnings at which a prompt diverged from a cache: other prompts may share them."""
        self.elsewhere: Callable[[Sequence[int], PromptCache, int], None] | None = None
        """Fills an empty cache with a beginning stored on disk that is longer than so many tokens;
        None if there is no disk store."""

    def __len__(self) -> int:
        return len(self._idle)

    def __contains__(self, cache: PromptCache) -> bool:
        return any(held is cache for held in self._idle)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored caches."""
        return sum(cache.nbytes for cache in self._idle)

    def idle(self) -> list[PromptCache]:
        """All stored caches, the least recently used first."""
        return list(self._idle)

    def counts(self) -> PrefixCounts:
        """The store's state in numbers."""
        return PrefixCounts(len(self), self.nbytes, self.limit, self.evictions)

    def take(self, prompt: Sequence[int], busy: Iterable[PromptCache] = ()) -> PromptCache:
        """The cache that holds most of the beginning of `prompt`, from the store or `busy`.

        The caller owns it; its ``tokens`` lists what it holds. At least the last token of `prompt`
        is left to compute.
        """
        wanted = list(prompt[:-1])
        lengths = [(common_prefix(cache.tokens, wanted), cache) for cache in self._idle]
        common, best = max(lengths, key=lambda pair: pair[0], default=(0, None))
        if best is not None and SHORTEST <= common < len(best.tokens):
            self._note_branch(wanted[:common])
        if best is not None and 2 * common >= len(best.tokens) and common >= SHORTEST:
            self._remove(best)
            if best.keep(wanted) >= SHORTEST:  # a window may have dropped rows
                return best
        others = [(common_prefix(cache.tokens, wanted), cache) for cache in busy]
        common, source = max([*lengths, *others], key=lambda pair: pair[0], default=(0, None))
        if self.elsewhere is not None and 2 * common < len(wanted):
            kept = self._empty()
            self.elsewhere(wanted, kept, common)
            if len(kept.tokens) > common:
                return kept
        if source is None or common < SHORTEST:
            return self._empty()
        if source in self:  # a cache that was useful is not evicted next
            self._remove(source)
            self._idle.append(source)
        return copied(source, common, self._empty())

    def _empty(self) -> PromptCache:
        """An empty cache. All share one fused step: making and tracing one takes as long as many
        tokens; with one each 8B's second token came after 105 ms on an H200, for 61."""
        held = self._pattern
        if held is None or (held.step is not None and held.step.fault):
            self._pattern = held = self._first_cache()
        return PromptCache(held.network, held.cache_format, like=held)

    def _note_branch(self, tokens: list[int]) -> None:
        if tokens in self.branches:
            self.branches.remove(tokens)
        self.branches.append(tokens)

    def add(self, cache: PromptCache) -> None:
        """Store `cache`, in which nobody computes any more, and evict others beyond the limit."""
        if not cache.tokens:
            return
        for held in list(self._idle):  # drops caches whose tokens this one includes
            if common_prefix(held.tokens, cache.tokens) == len(held.tokens):
                self._remove(held)
        self._idle.append(cache)
        while self.nbytes > self.limit and self.evict():
            pass

    def evict(self) -> bool:
        """Drop the least recently used cache; False if there is none."""
        if not self._idle:
            return False
        self._idle.pop(0).clear()
        self.evictions += 1
        return True

    def clear(self) -> None:
        """Drop all caches; each counts as an eviction."""
        while self.evict():
            pass

    def renew(self) -> None:
        """Move all stored conversations into new caches, whose steps use today's kernels."""
        self._pattern = None
        for index, held in enumerate(self._idle):
            moved = copied(held, len(held.tokens), self._empty())
            if moved.tokens:  # a sliding window may have dropped rows: it stays as it is
                self._idle[index] = moved

    def _remove(self, cache: PromptCache) -> None:
        self._idle = [held for held in self._idle if held is not cache]


def copied(source: PromptCache, count: int, target: PromptCache) -> PromptCache:
    """`target` with the first `count` tokens of `source`; rows are copied when it grows.

    `target` stays empty if a rotating cache has dropped the rows.
    """
    arrays = [layer.stored(count) for layer in source.layers]
    if all(arrays):
        for layer, stored in zip(target.layers, arrays, strict=True):
            layer.restore(stored, count)
        target.tokens[:] = source.tokens[:count]
        if (lead := source.network.model.lead) is not None:
            lead.copy(source.layers, target.layers, count)
    return target


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of leading tokens that both have in common."""
    shorter = min(len(one), len(other))
    start = 0
    while start < shorter and one[start : start + _BLOCK] == other[start : start + _BLOCK]:
        start += _BLOCK
    while start < shorter and one[start] == other[start]:
        start += 1
    return min(start, shorter)
