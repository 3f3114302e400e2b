"""A proof's cases for matrices: `matvec` for one token, `skinny` for several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from qwen3_mlx.metal import matvec, skinny, stock
from qwen3_mlx.metal.case import Arrays, Case
from qwen3_mlx.metal.matrix import Matrix
from qwen3_mlx.metal.random_inputs import gain, of, packed, random
from qwen3_mlx.metal.variants import Signature

COMPARED = 4096
"""Rows compared at each end of the head: a float32 copy of the whole head takes gigabytes."""

NORMED = 3
"""`Case.roundings` with a norm on matrix units: x times the norm's weight is rounded too."""


MANY_ROWS = 8
"""MLX's packed product of so many rows takes CUDA's compiler 43 s, in each process: then MLX's own
operations get unpacked weights."""


def of_stock(matrix: Matrix, x: mx.array) -> Matrix:
    """`matrix` as MLX's own operations get it for ``x [R, 1, K]``."""
    if len(x) < MANY_ROWS:
        return matrix
    return Matrix(matrix.dequantized().astype(x.dtype))


def stock_matvec(x: mx.array, matrices: Sequence[Matrix], *rest: Any) -> mx.array:
    """As `matvec.matvec`, by MLX's own operations."""
    return stock.matvec(x, [of_stock(matrix, x) for matrix in matrices], *rest)


@dataclass(frozen=True, slots=True)
class Products:
    """The cases of `matvec` (one row) or `skinny` (several), whose x has `rows` rows."""

    n: Signature
    rows: int = 1

    def all(self) -> Iterator[Case]:
        """Every matrix of a layer except a dense gate and up, then the head."""
        n, rows, width = self.n, self.rows, self.n.heads * self.n.head_dim
        sizes = (width, n.kv_heads * n.head_dim, n.kv_heads * n.head_dim)
        wide = random(n.dtype, rows, 1, n.hidden)
        three = [of(n, "qkv", size, n.hidden) for size in sizes]
        yield self._case("q, k and v", wide, three, gain(n, n.hidden))
        x, out = random(n.dtype, rows, 1, width), of(n, "out", n.hidden, width)
        yield self._case("output", x, [out], residual=wide)
        if n.experts:
            router = packed(n.router, n.dtype, n.experts, n.hidden)
            yield self._case("router", wide, [router], gain(n, n.hidden))
        else:
            h, last = (
                random(n.dtype, rows, 1, n.feed_forward),
                of(n, "down", n.hidden, n.feed_forward),
            )
            yield self._case("down", h, [last], residual=wide)
        if n.vocabulary:
            yield self._head(wide)

    def _case(
        self,
        name: str,
        x: mx.array,
        matrices: list[Matrix],
        norm: mx.array | None = None,
        residual: mx.array | None = None,
    ) -> Case:
        def by(make: Callable[..., mx.array], x: mx.array) -> Arrays:
            return [make(x, matrices, norm, 1e-6, residual)]

        return self._made(name, x, partial(by, self._kernel), by, norm is not None)

    def _head(self, x: mx.array) -> Case:
        n = self.n
        matrix, norm = of(n, "head", n.vocabulary, n.hidden), gain(n, n.hidden)
        few = min(COMPARED, matrix.rows)
        ends = [stock.expert(matrix, slice(None, few)), stock.expert(matrix, slice(-few, None))]

        def whole(x: mx.array) -> Arrays:
            y = self._kernel(x, [matrix], norm, n.eps)
            return [mx.concatenate([y[..., :few], y[..., -few:]], axis=-1)]

        def by(make: Callable[..., mx.array], x: mx.array) -> Arrays:
            return [make(x, ends, norm, n.eps)]

        return self._made("head", x, whole, by, True)

    @property
    def _kernel(self) -> Callable[..., mx.array]:
        return matvec.matvec if self.rows == 1 else skinny.matvec

    def _made(
        self,
        name: str,
        x: mx.array,
        ours: Callable[[mx.array], Arrays],
        by: Callable[[Callable[..., mx.array], mx.array], Arrays],
        normed: bool,
    ) -> Case:
        rest = (partial(by, make) for make in (matvec.reference, stock_matvec))
        if self.rows == 1:
            return Case("matvec", name, x, ours, *rest)
        roundings = NORMED if normed else 1
        return Case("skinny", f"{name} of {self.rows}", x, ours, *rest, roundings=roundings)
