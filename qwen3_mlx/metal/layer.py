"""One layer's decode step, written once for our kernels, MLX's operations, or both.

An `Operations` supplies its parts: `FUSED` and `HYBRID` run decode steps, `STOCK` and `REFERENCE`
(float32) are what a proof compares them with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mlx.core as mx

from qwen3_mlx.metal import attend, down, gate_up, matvec, route, skinny, stock, tuning
from qwen3_mlx.metal.matrix import Matrix


@dataclass(frozen=True, slots=True)
class Routed:
    """E experts, a stacked matrix per projection, and how a token is routed to `top_k` of them."""

    gate: Matrix
    up: Matrix
    down: Matrix
    top_k: int
    normalise: bool

    @property
    def count(self) -> int:
        """The number of experts, E."""
        return self.gate.weight.shape[0]

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that activations need: the weights', or their scales' if they are packed."""
        return (self.gate.weight if self.gate.scales is None else self.gate.scales).dtype


Sum = Callable[[mx.array], mx.array]

Hidden = Callable[[mx.array, mx.array, Routed, mx.array | None, float], tuple[mx.array, Any]]
"""The type of `hidden`; only `Operations.down` interprets the second result."""


@dataclass(frozen=True, slots=True)
class Operations:
    """The functions of a layer's step, each with the arguments of the kernel of the same name."""

    matvec: Callable[..., mx.array]
    attend: Callable[..., tuple[mx.array, mx.array]]
    gate_up: Callable[..., mx.array]
    """For dense layers."""
    hidden: Hidden
    """For routed experts."""
    down: Callable[..., mx.array]


def hidden(
    x: mx.array,
    logits: mx.array,
    experts: Routed,
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> tuple[mx.array, mx.array]:
    """The experts' weighted hidden layers ``[T, top_k, F]``, and their indices ``[T, top_k]``.

    x: ``[..., C]`` of T tokens. logits: the router's, ``[..., E]``.
    """
    gate, up, top_k, normalise = experts.gate, experts.up, experts.top_k, experts.normalise
    if tuning.choosing():
        return gate_up.route_and_gate_up(x, gate, up, logits, top_k, normalise, norm, eps)
    chosen, weights = route.route(logits, top_k, normalise)
    return gate_up.gate_up(x, gate, up, chosen, weights, norm, eps), chosen


def hidden_by(
    choose: Callable[..., tuple[mx.array, mx.array]], make: Callable[..., mx.array]
) -> Hidden:
    """`hidden` made of two functions: `choose` routes, `make` computes the hidden layers."""

    def made(
        x: mx.array, logits: mx.array, experts: Routed, norm: mx.array | None, eps: float
    ) -> tuple[mx.array, mx.array]:
        rows = logits.reshape(-1, logits.shape[-1])
        chosen, weights = choose(rows, experts.top_k, experts.normalise)
        return make(x, experts.gate, experts.up, chosen, weights, norm, eps), chosen

    return made


FUSED = Operations(matvec.matvec, attend.attend, gate_up.gate_up, hidden, down.down)
"""Only our kernels."""

HYBRID = replace(FUSED, matvec=stock.matvec, gate_up=stock.gate_up)
"""MLX's products of single matrices, which already reach the memory bandwidth of Apple's GPUs, with
our attention and experts, which save most of the launches."""


def rows_hidden(
    x: mx.array, logits: mx.array, experts: Routed, norm: mx.array | None, eps: float
) -> tuple[mx.array, route.Groups]:
    """`hidden` for a few rows; each expert is read once."""
    given = (experts.gate, experts.up, experts.top_k, experts.normalise)
    return skinny.hidden(x, logits, *given, norm, eps)


ROWS = Operations(skinny.matvec, attend.attend, skinny.gate_up, rows_hidden, skinny.down)
"""Our kernels for a few rows, on matrix units."""

STOCK = Operations(
    stock.matvec, stock.attend, stock.gate_up, hidden_by(stock.route, stock.gate_up), stock.down
)
"""Only MLX's operations."""

REFERENCE = Operations(
    matvec.reference,
    attend.reference,
    gate_up.reference,
    hidden_by(route.reference, gate_up.reference),
    down.reference,
)
"""The reference implementations, in float32."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights, and its decode step for one token or a few rows."""

    qkv: Sequence[Matrix]
    out: Matrix
    heads: tuple[int, int]
    """The numbers of query heads and of key heads."""
    head_norms: tuple[mx.array, mx.array]
    """Norm weights of queries and of keys, ``[D]`` each."""
    norms: tuple[mx.array, mx.array]
    """Norm weights before attention and before the feed-forward network, ``[C]`` each."""
    eps: float
    network: Routed | tuple[Matrix, Matrix, Matrix]
    """Gate, up and down: of experts, or of a dense network."""
    router: Matrix | None = None
    sums: tuple[Sum | None, Sum | None] = (None, None)
    """Sums over the machines that share the layer: after attention, and after the network."""

    def groups(self) -> list[list[Matrix]]:
        """The matrices, grouped by the launch that reads them."""
        gate, up, last = self.matrices
        return [
            list(self.qkv),
            [self.out],
            [gate, up],
            [last],
            [self.router] if self.router else [],
        ]

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """The network's gate, up and down, whether experts or dense."""
        n = self.network
        return (n.gate, n.up, n.down) if isinstance(n, Routed) else n

    def step(
        self,
        x: mx.array,
        turns: mx.array,
        past: attend.Past | attend.Pasts,
        operations: Operations = FUSED,
    ) -> tuple[mx.array, mx.array]:
        """Transform ``x [R, 1, C]``, with `turns` from `rotation`; returns it and the new tail."""
        do = operations
        qkv = do.matvec(x, self.qkv, self.norms[0], self.eps)
        mixed, tail = do.attend(qkv, self.heads, self.head_norms, self.eps, turns, past)
        total, whole = self.sums
        x = _added(x, partial(do.matvec, mixed, [self.out]), total)
        if not isinstance(self.network, Routed) or self.router is None:
            gate, up, last = self.matrices
            h = do.gate_up(x, gate, up, norm=self.norms[1], eps=self.eps)
            return _added(x, partial(do.matvec, h, [last]), whole), tail
        logits = do.matvec(x, [self.router], self.norms[1], self.eps)
        h, experts = do.hidden(x, logits, self.network, self.norms[1], self.eps)
        return _added(x, partial(do.down, h, self.network.down, experts), whole), tail


def _added(x: mx.array, product: Callable[..., mx.array], total: Sum | None) -> mx.array:
    """`x` plus a product. If one machine computes the whole product, its kernel adds `x`."""
    if total is None:
        return product(residual=x).reshape(x.shape)
    return x + total(product().reshape(x.shape))
