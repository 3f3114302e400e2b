"""How many tokens of a prompt to read at once: as many as the free memory bears."""

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
"""Below this the weights are read so often that waiting is worse than running out."""


@dataclass(frozen=True, slots=True)
class PromptMemory:
    """The memory that a prompt of `total` tokens takes, of which `done` are computed already."""

    config: Qwen3Config
    cache_format: CacheFormat
    done: int
    total: int
    machine: Machine

    def cache_bytes(self) -> int:
        """Bytes that the cache grows by."""
        window, new = self.cache_format.window, self.total - self.done
        rows = new if window is None else min(new, window)
        width = self.machine.float_bytes or 2
        return rows * kv_bytes_per_token(self.config, self.cache_format.bits, width)

    def scratch_bytes(self, size: int) -> int:
        """Bytes beside weights and cache for the last chunk, if no chunk is longer than `size`."""
        length = min(size, self.total - self.done)
        packed = self.cache_format.bits is not None
        return chunk_bytes(self.config, self.machine, length, self.total, packed)

    def fitting(self, size: int | None) -> tuple[int, int]:
        """The chunk size, and the bytes that reading the prompt so takes.

        It is `size`, or else 2,048 tokens, halved as often as the free memory needs it, but not
        below 32. A buffer that grows is there twice for a moment: that much is left free.
        """
        cache = self.cache_bytes()
        found = size or PREFILL_CHUNK
        scratch = self.scratch_bytes(found)
        while not size and found > SHORTEST and scratch > self.machine.available_bytes - 2 * cache:
            found //= 2
            scratch = self.scratch_bytes(found)
        return found, scratch + cache


def chunk_size(
    config: Qwen3Config, cache_format: CacheFormat, done: int, total: int, asked: int | None = None
) -> int:
    """Tokens of a chunk, for a prompt of `total` tokens of which `done` are computed already.

    The size that was `asked` for, if one was. Raises `OutOfMemoryError` if it does not fit, or not
    even the shortest chunk does.
    """
    machine = this_machine(swap=True)
    memory = PromptMemory(config, cache_format, done, total, machine)
    size, needed = memory.fitting(asked)
    if needed > machine.available_bytes and checked():
        shorter, _ = memory.fitting(None)
        first = f"prefill_chunk={shorter}, " if shorter < min(size, total - done) else ""
        others = ways_to_free_memory(config, total, cache_format.bits, machine.float_bytes or 2)
        doing = f"at {total:,} tokens, of which {total - done:,} are new"
        raise not_enough_memory(needed, machine, doing, f"try {first}{others}")
    return size
