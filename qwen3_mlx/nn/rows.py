"""A step of several sequences: the last token of each is a row, and each row has its own cache.

A GPU reads the weights once for all rows. The CPU's BLAS sums a product of several rows in another
order than a product of one row, so on the CPU each row is multiplied separately: a sequence
computes the same bits whichever sequences run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.nn.cache.full import KVCache


class Together:
    """One layer's caches of several sequences, one per row of the batch."""

    def __init__(self, caches: Sequence[KVCache], offset: mx.array) -> None:
        self.caches, self.offset = caches, offset
        """``[B]`` int32: the position of each row's first token."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """As `KVCache.attend`; row i uses cache i."""
        rows = zip(self.caches, *(mx.split(t, len(self.caches)) for t in (q, k, v)), strict=True)
        return mx.concatenate([cache.attend(*row, scale) for cache, *row in rows])


def of_several(x: mx.array) -> bool:
    """Whether ``x [B, L, C]`` holds one token of each of several sequences: L = 1 and B > 1."""
    return x.ndim == 3 and x.shape[1] == 1 < x.shape[0]


def apart(x: mx.array) -> bool:
    """Whether to multiply the rows of ``x [B, L, C]`` separately: those of several, on the CPU."""
    return of_several(x) and backend.device() == "cpu"


def one_by_one(product: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """`product` of ``x [B, 1, C]``; the rows are multiplied separately if `apart` says so."""
    if not apart(x):
        return product(x)
    return mx.concatenate([product(row) for row in mx.split(x, len(x))])
