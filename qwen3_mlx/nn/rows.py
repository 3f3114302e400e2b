"""A step of several sequences: the last token of each is a row, and each row's past is its own.

Weights are read once for all rows, where the device can. On the CPU a product of several rows is
summed in another order than one of a single row (the BLAS cuts it otherwise), so there every row
has a product of its own, and a sequence computes the same bits whoever runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.nn.cache.full import KVCache


class Together:
    """One layer's caches of several sequences, each of which takes a row of the batch."""

    def __init__(self, caches: Sequence[KVCache], offset: mx.array) -> None:
        self.caches, self.offset = caches, offset
        """``[B]`` int32: the position of each row's first token."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """As `KVCache.attend`, row i in the i-th cache."""
        rows = zip(self.caches, *(mx.split(t, len(self.caches)) for t in (q, k, v)), strict=True)
        return mx.concatenate([cache.attend(*row, scale) for cache, *row in rows])


def apart(x: mx.array) -> bool:
    """Whether the rows of ``x [B, L, C]`` are multiplied one by one: a step's, on the CPU."""
    return x.ndim == 3 and x.shape[1] == 1 < x.shape[0] and backend.device() == "cpu"


def one_by_one(product: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """`product` of ``x [B, 1, C]``, row by row where rows are to be `apart`."""
    if not apart(x):
        return product(x)
    return mx.concatenate([product(row) for row in mx.split(x, len(x))])
