"""Caches that keep their newest tokens in a short tail, apart from the buffers.

A fused step can't write into the buffers; it returns a new tail with one more token
(`qwen3_mlx.metal.attend`). Other code sees an ordinary cache: `append` first closes the tail.
The tail holds keys and values as computed; a packed cache rounds them when it closes the tail, up
to `attend.TAIL` tokens at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.metal import attend
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.quantized import QuantizedCache
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat


class TailedCache(KVCache):
    """A `KVCache` with a tail; a subclass may name another cache class after this one."""

    held = recent = 0
    """Tokens in the buffers, and tokens after them in `tail`."""
    _tail: mx.array | None = None
    _joint: tuple[mx.array, int] | None = None
    """The stacked tails of several sequences from a step of rows, and this cache's index in it."""

    @property
    def tail(self) -> mx.array | None:
        """Keys, then values, ``[2, K, TAIL, D]``; None before the first fused step."""
        return self._tail if self._joint is None else self._joint[0][self._joint[1]]

    @tail.setter
    def tail(self, value: mx.array | None) -> None:
        self._tail, self._joint = value, None

    @property
    def offset(self) -> int:
        """Tokens in the cache, the tail's included."""
        return self.held + self.recent

    @offset.setter
    def offset(self, value: int) -> None:
        self.held = value - self.recent

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Close the tail, then append keys and values ``[B, K, L, D]``."""
        self.close()
        super().append(keys, values)

    def open(self) -> tuple[mx.array, ...]:
        """The buffers (keys', then values'), and a tail with room for one token."""
        buffers, tail = self.buffers(1), self.tail
        if tail is None:
            heads, dim, dtype = self.layout
            tail = self.tail = mx.zeros((2, heads, attend.TAIL, dim), dtype)
        return (*buffers, tail)

    def buffers(self, new: int) -> tuple[mx.array, ...]:
        """The buffers (keys', then values'); closes the tail if it lacks room for `new` tokens."""
        if self.recent + new > attend.TAIL:
            self.close()
        return tuple(super().state)

    def rooms(self, new: int) -> tuple[int, int]:
        """The buffers' capacity in tokens: now, and at most after `new` more tokens."""
        room: int = super().state[0].shape[2]
        return room, room if self.offset + new <= room else max(2 * room, self.offset + new)

    def join(self, tails: mx.array, index: int, new: int) -> None:
        """Adopt the tail ``tails[index]``, which holds `new` more tokens."""
        self._tail, self._joint, self.recent = None, (tails, index), self.recent + new

    def joined(self, index: int) -> mx.array | None:
        """The stacked tails, if this cache's tail is number `index` of them; else None."""
        return self._joint[0] if self._joint is not None and self._joint[1] == index else None

    def grow(self, tail: mx.array) -> None:
        """Adopt a step's new tail, which holds one more token."""
        self.tail, self.recent = tail, self.recent + 1

    def close(self) -> None:
        """Move the tail's tokens into the buffers."""
        recent, self.recent = self.recent, 0
        if recent and self.tail is not None:
            new = self.tail[:, None, :, :recent]  # [2, 1, K, recent, D]
            super().append(new[0], new[1])

    def trim(self, n: int) -> int:
        """As `KVCache.trim`: removes tokens from the tail first."""
        from_tail = min(max(n, 0), self.recent)
        self.recent -= from_tail
        return from_tail + super().trim(n - from_tail)

    def stored(self, count: int) -> dict[str, mx.array]:
        """As `KVCache.stored`; closes the tail first."""
        self.close()
        return super().stored(count)

    @property
    def state(self) -> list[mx.array]:
        """The buffers, and the tail if it holds tokens."""
        return super().state + ([self.tail] if self.recent and self.tail is not None else [])


class TailedQuantizedCache(TailedCache, QuantizedCache):
    """A `QuantizedCache` with a tail, whose tokens are not packed."""


def tailed(cache_format: CacheFormat, network: Qwen3Network) -> TailedCache:
    """An empty cache with a tail for one layer of `network`."""
    if cache_format.bits is None:
        return TailedCache(network.context)
    return TailedQuantizedCache(
        cache_format.bits, cache_format.group(network.head_dim), network.context
    )


def open_together(
    caches: Sequence[TailedCache], new: Sequence[int]
) -> tuple[list[tuple[mx.array, ...]], mx.array]:
    """One layer's caches of S sequences: each one's buffers, and the tails ``[S, 2, K, TAIL, D]``.

    The tails have room for `new` tokens of each sequence. If the last step returned exactly these
    tails stacked, they are reused without a copy.
    """
    buffers = [cache.buffers(count) for cache, count in zip(caches, new, strict=True)]
    joined = [cache.joined(index) for index, cache in enumerate(caches)]
    first = joined[0]
    if first is not None and len(first) == len(caches) and all(one is first for one in joined):
        return buffers, first
    return buffers, mx.stack([cache.open()[-1] for cache in caches])


def grow_together(caches: Sequence[TailedCache], tails: mx.array, new: Sequence[int]) -> None:
    """Adopt a step's tails ``[S, 2, K, TAIL, D]``, which hold `new` more tokens per sequence."""
    for index, (cache, count) in enumerate(zip(caches, new, strict=True)):
        cache.join(tails, index, count)
