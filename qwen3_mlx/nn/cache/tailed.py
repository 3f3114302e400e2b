"""Caches that keep their newest tokens in a short tail, apart from the buffers.

A fused step can't write into the buffers; it returns a new tail with one more token
(`qwen3_mlx.metal.attend`). Other code sees an ordinary cache: `append` first closes the tail.
The tail holds keys and values as computed; a packed cache rounds them when it closes the tail, up
to `attend.TAIL` tokens at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from qwen3_mlx.metal import attend
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.quantized import QuantizedCache
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat

Opened = list[tuple[list[tuple[mx.array, ...]], mx.array]]
"""Per layer: each sequence's buffers (keys', then values'), and the tails of all of them."""


class Left(NamedTuple):
    """What a step of rows left to the next one, kept by a sequence's first layer."""

    buffers: list[tuple[mx.array, ...]]
    """The sequence's own, per layer."""
    tails: list[mx.array]
    """Those of all the step's sequences, per layer."""
    place: int
    """The sequence's index among them."""


class TailedCache(KVCache):
    """A `KVCache` with a tail; a subclass may name another cache class after this one."""

    held = recent = 0
    """Tokens in the buffers, and tokens after them in `tail`."""
    _tail: mx.array | None = None
    _joint: tuple[mx.array, int] | None = None
    """The stacked tails of several sequences from a step of rows, and this cache's index in it."""
    left: Left | None = None
    """In a first layer: all layers' arrays, as long as no layer's have changed since."""

    @property
    def tail(self) -> mx.array | None:
        """Keys, then values, ``[2, K, TAIL, D]``; None before the first fused step."""
        return self._tail if self._joint is None else self._joint[0][self._joint[1]]

    @tail.setter
    def tail(self, value: mx.array | None) -> None:
        self._tail, self._joint, self.left = value, None, None

    @property
    def offset(self) -> int:
        """Tokens in the cache, the tail's included."""
        return self.held + self.recent

    @offset.setter
    def offset(self, value: int) -> None:
        self.held, self.left = value - self.recent, None

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
        room = self.capacity
        return room, room if self.offset + new <= room else max(2 * room, self.offset + new)

    def grows(self, new: int) -> bool:
        """As `KVCache.grows`, of a fused step: the tail takes its tokens until it is full."""
        full = self.recent + new > attend.TAIL
        return full and self.offset > self.capacity

    def reserve(self, capacity: int) -> None:
        """As `KVCache.reserve`; the tail stays."""
        super().reserve(capacity)
        self.left = None

    def joined(self, index: int) -> mx.array | None:
        """The stacked tails, if this cache's tail is number `index` of them; else None."""
        return self._joint[0] if self._joint is not None and self._joint[1] == index else None

    def grow(self, tail: mx.array) -> None:
        """Adopt a step's new tail, which holds one more token."""
        self.tail, self.recent = tail, self.recent + 1

    def close(self) -> None:
        """Move the tail's tokens into the buffers."""
        recent, self.recent = self.recent, 0
        if recent and self._joint is not None:  # views of few operations: many layers close at once
            tails, at = self._joint
            super().append(*(tails[at : at + 1, part, :, :recent] for part in range(2)))
        elif recent and self._tail is not None:
            super().append(*(self._tail[part : part + 1, :, :recent] for part in range(2)))

    def trim(self, n: int) -> int:
        """As `KVCache.trim`: removes tokens from the tail first."""
        from_tail = min(max(n, 0), self.recent)
        self.recent -= from_tail
        return from_tail + (super().trim(n - from_tail) if n > from_tail else 0)

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


def open_together(held: Sequence[Sequence[TailedCache]], new: Sequence[int]) -> Opened:
    """The arrays of S sequences' caches (``held``: per sequence, per layer) for a step of rows.

    The tails ``[S, 2, K, TAIL, D]`` have room for `new` tokens of each sequence. What the last step
    left is taken as it is, if these were its sequences: asking each layer takes the host longer.
    """
    return _left(held, new) or [_open_layer(each, new) for each in zip(*held, strict=True)]


def grow_together(
    held: Sequence[Sequence[TailedCache]], opened: Opened, tails: list[mx.array], new: Sequence[int]
) -> None:
    """Adopt a step's tails, ``[S, 2, K, TAIL, D]`` each, with `new` more tokens per sequence."""
    for index, (layers, count) in enumerate(zip(held, new, strict=True)):
        before = layers[0].left
        for cache, tail in zip(layers, tails, strict=True):
            cache._tail, cache._joint, cache.recent = None, (tail, index), cache.recent + count
        own = before.buffers if before else [buffers[index] for buffers, _ in opened]
        layers[0].left = Left(own, tails, index)


def _left(held: Sequence[Sequence[TailedCache]], new: Sequence[int]) -> Opened | None:
    """What the last step left to exactly these sequences, unless a tail must be closed."""
    buffers, tails = [], None
    for index, (layers, count) in enumerate(zip(held, new, strict=True)):
        left = layers[0].left
        if left is None or left.place != index or layers[0].recent + count > attend.TAIL:
            return None
        if tails is not None and tails is not left.tails:
            return None
        tails = left.tails
        buffers.append(left.buffers)
    if tails is None or len(tails[0]) != len(held):
        return None
    return [(list(each), tail) for *each, tail in zip(*buffers, tails, strict=True)]


def _open_layer(
    caches: Sequence[TailedCache], new: Sequence[int]
) -> tuple[list[tuple[mx.array, ...]], mx.array]:
    """One layer of `Opened`; tails that are stacked in this order aren't copied."""
    buffers = [cache.buffers(count) for cache, count in zip(caches, new, strict=True)]
    joined = [cache.joined(index) for index, cache in enumerate(caches)]
    first = joined[0]
    if first is not None and len(first) == len(caches) and all(one is first for one in joined):
        return buffers, first
    return buffers, mx.stack([cache.open()[-1] for cache in caches])
