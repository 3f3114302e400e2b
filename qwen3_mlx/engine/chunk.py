"""How many tokens of a prompt to read at once: as many as the free memory bears."""

from __future__ import annotations

import qwen3_mlx.backend as backend

import mlx.core as mx

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.machine import Machine, this_machine
from qwen3_mlx.memory import PREFILL_CHUNK, kv_bytes_per_token, scratch_bytes
from qwen3_mlx.options import KeyValues

SHORTEST = 32
"""Below this the weights are read so often that waiting is worse than running out."""


def chunk_size(config: Qwen3Config, kept: KeyValues, done: int, total: int) -> int:
    """Tokens of a chunk, for a prompt of `total` tokens of which `done` are computed already."""
    machine = this_machine()
    return fitting(config, kept, done, total, machine, free_bytes(machine))


def free_bytes(machine: Machine) -> int:
    """What this process may still take, in bytes."""
    if backend.device() == "metal":  # its machine is the whole working set
        return machine.available_bytes - mx.get_active_memory()
    return machine.available_bytes + mx.get_cache_memory()


def fitting(
    config: Qwen3Config, kept: KeyValues, done: int, total: int, machine: Machine, free: int
) -> int:
    """The largest chunk whose scratch fits beside what the cache will grow by in `free` bytes.

    That is 2,048 tokens, halved as often as needed, but no fewer than 32.
    """
    per_token = kv_bytes_per_token(config, kept.bits) * (machine.float_bytes or 2) // 2
    rows = total - done if kept.window is None else min(total - done, kept.window)
    room = free - 2 * per_token * rows  # twice: a buffer that grows is there twice for a moment
    size = PREFILL_CHUNK
    while size > SHORTEST and scratch_bytes(config, machine, total, size) > room:
        size //= 2
    return size
