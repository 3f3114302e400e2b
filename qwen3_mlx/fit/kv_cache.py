"""Sizes of keys and values, and the growth of their buffers."""

from __future__ import annotations

from collections.abc import Iterator

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device.buffer_sizes import BLOCK
from qwen3_mlx.errors import OptionError

GROUP = 64
"""Group size of a quantized cache; 32 if 64 doesn't divide a head."""


def kv_bytes_per_token(
    config: Qwen3Config, kv_bits: int | None = None, float_bytes: int = 2
) -> int:
    """Bytes of keys and values per token, over all layers. Raises `OptionError`.

    Each number takes `float_bytes`, or `kv_bits` (8 or 4) plus a scale and a bias of `float_bytes`
    per group.
    """
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    if kv_bits is None:
        return float_bytes * numbers
    if kv_bits not in (4, 8):
        raise OptionError("kv-bits", got=kv_bits, expected="8 or 4, or nothing for 16")
    group = GROUP if config.head_dim % GROUP == 0 else GROUP // 2
    return numbers * kv_bits // 8 + 2 * float_bytes * numbers // group


def growth(tokens: int, chunk: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """For each chunk of a prefill: its length, the cached tokens after it, allocated positions.

    Buffers double as in `nn.cache`, up to the context's `limit`, in whole blocks.
    """
    tokens_held = allocated = 0
    while tokens_held < tokens:
        length = min(chunk, tokens - tokens_held)
        tokens_held += length
        if tokens_held > allocated:
            size = max(tokens_held, 2 * allocated)
            if tokens_held <= limit:
                size = min(size, limit)
            allocated = -(-size // BLOCK) * BLOCK
        yield length, tokens_held, allocated
