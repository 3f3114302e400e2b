"""How many tokens of a prompt to read at once: as many as the free memory bears."""

from __future__ import annotations

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.fit.guard import checked, not_enough_memory
from qwen3_mlx.fit.inequality import PREFILL_CHUNK, ways_to_free_memory
from qwen3_mlx.fit.kv_cache import kv_bytes_per_token
from qwen3_mlx.fit.machine import Machine, this_machine
from qwen3_mlx.fit.prefill_peak import chunk_bytes
from qwen3_mlx.options import CacheFormat

SHORTEST = 32
"""Below this the weights are read so often that waiting is worse than running out."""


def chunk_size(
    config: Qwen3Config, cache_format: CacheFormat, done: int, total: int, asked: int | None = None
) -> int:
    """Tokens of a chunk, for a prompt of `total` tokens of which `done` are computed already.

    The size that was `asked` for, if one was. Raises `OutOfMemoryError` if it does not fit, or not
    even the shortest chunk does.
    """
    machine = this_machine(swap=True)
    fits = fitting(config, cache_format, done, total, machine, machine.available_bytes)
    size = asked or fits
    per_token = kv_bytes_per_token(config, cache_format.bits, machine.float_bytes or 2)
    rows = total - done if cache_format.window is None else min(total - done, cache_format.window)
    read = min(size, total - done)  # no chunk is longer than what is new
    needed = (
        chunk_bytes(config, machine, read, total, cache_format.bits is not None) + per_token * rows
    )
    if checked() and needed > machine.available_bytes:
        shorter = f"prefill_chunk={fits}, " if fits < read else ""
        others = ways_to_free_memory(config, total, cache_format.bits, machine.float_bytes or 2)
        doing = f"at {total:,} tokens, of which {total - done:,} are new"
        raise not_enough_memory(needed, machine, doing, f"try {shorter}{others}")
    return size


def fitting(
    config: Qwen3Config,
    cache_format: CacheFormat,
    done: int,
    total: int,
    machine: Machine,
    free: int,
) -> int:
    """The largest chunk whose scratch fits beside what the cache will grow by in `free` bytes.

    That is 2,048 tokens, halved as often as needed, but no fewer than 32.
    """
    per_token = kv_bytes_per_token(config, cache_format.bits, machine.float_bytes or 2)
    rows = total - done if cache_format.window is None else min(total - done, cache_format.window)
    room = free - 2 * per_token * rows  # twice: a buffer that grows is there twice for a moment
    size = PREFILL_CHUNK
    while (
        size > SHORTEST
        and chunk_bytes(config, machine, size, total, cache_format.bits is not None) > room
    ):
        size //= 2
    return size
