"""Chooses the prefill's chunk size by the free memory."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.fit.guard import checked, not_enough_memory
from qwen3_mlx.fit.inequality import PREFILL_CHUNK, ways_to_free_memory
from qwen3_mlx.fit.kv_cache import kv_bytes_per_token
from qwen3_mlx.fit.machine import Machine, this_machine
from qwen3_mlx.fit.prefill_peak import chunk_bytes
from qwen3_mlx.options import CacheFormat

SHORTEST = 32
"""Smallest chunk in tokens: with smaller ones the weights are read too often."""


@dataclass(frozen=True, slots=True)
class PromptMemory:
    """The memory for prefilling a prompt of `total` tokens, of which `done` are cached."""

    config: Qwen3Config
    cache_format: CacheFormat
    done: int
    total: int
    machine: Machine

    def cache_bytes(self) -> int:
        """Bytes by which the cache grows."""
        window, new = self.cache_format.window, self.total - self.done
        rows = new if window is None else min(new, window)
        width = self.machine.float_bytes or 2
        return rows * kv_bytes_per_token(self.config, self.cache_format.bits, width)

    def scratch_bytes(self, size: int) -> int:
        """Bytes besides weights and cache for the last chunk, of at most `size` tokens."""
        length = min(size, self.total - self.done)
        packed = self.cache_format.bits is not None
        return chunk_bytes(self.config, self.machine, length, self.total, packed)

    def fitting(self, size: int | None) -> tuple[int, int]:
        """The chunk size, and the bytes that the prefill takes with it.

        The size is `size`, or 2,048 tokens halved until it fits, at least 32. The cache counts
        twice, because a growing buffer is copied.
        """
        cache = self.cache_bytes()
        found = size or PREFILL_CHUNK
        scratch = self.scratch_bytes(found)
        while not size and found > SHORTEST and scratch > self.machine.available_bytes - 2 * cache:
            found //= 2
            scratch = self.scratch_bytes(found)
        return found, scratch + cache


def chunk_size(
    config: Qwen3Config,
    cache_format: CacheFormat,
    done: int,
    total: int,
    requested: int | None = None,
) -> int:
    """Tokens per chunk for a prompt of `total` tokens, of which `done` are cached.

    requested: the user's chunk size, if any. Raises `OutOfMemoryError` if it doesn't fit, or if not
    even the smallest chunk does.
    """
    machine = this_machine(swap=True)
    memory = PromptMemory(config, cache_format, done, total, machine)
    size, needed = memory.fitting(requested)
    if needed > machine.available_bytes and checked():
        shorter, _ = memory.fitting(None)
        first = f"prefill_chunk={shorter}, " if shorter < min(size, total - done) else ""
        others = ways_to_free_memory(config, total, cache_format.bits, machine.float_bytes or 2)
        doing = f"at {total:,} tokens, of which {total - done:,} are new"
        raise not_enough_memory(needed, machine, doing, f"try {first}{others}")
    return size
