"""Bytes of keys and values, and how the buffers that hold them grow."""

from __future__ import annotations

from collections.abc import Iterator

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device.buffer_sizes import BLOCK
from qwen3_mlx.errors import OptionError

GROUP = 64
"""Numbers of a packed cache that share a scale and a bias; 32 where 64 does not divide a head."""


def kv_bytes_per_token(
    config: Qwen3Config, kv_bits: int | None = None, float_bytes: int = 2
) -> int:
    """Bytes of keys and values that one token adds over all layers.

    Numbers of `float_bytes`, or of 8 or 4 `kv_bits` with two constants of `float_bytes` a group.
    """
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    if kv_bits is None:
        return float_bytes * numbers
    if kv_bits not in (4, 8):
        raise OptionError("kv-bits", got=kv_bits, expected="8 or 4, or nothing for 16")
    group = GROUP if config.head_dim % GROUP == 0 else GROUP // 2
    return numbers * kv_bits // 8 + 2 * float_bytes * numbers // group


def growth(tokens: int, chunk: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """For each chunk of a prefill: its length, the tokens held with it, positions allocated.

    The buffers double (`nn.cache`), but not beyond the context's `limit`, in whole blocks.
    """
    held = allocated = 0
    while held < tokens:
        length = min(chunk, tokens - held)
        held += length
        if held > allocated:
            wanted = max(held, 2 * allocated)
            if held <= limit:
                wanted = min(wanted, limit)
            allocated = -(-wanted // BLOCK) * BLOCK
        yield length, held, allocated
