"""MLX's own operations in place of the kernels, which must be as exact as these, and faster.

Names and arguments are the kernels'. `matvec` and a dense `gate_up` also serve the hybrid step, so
they evaluate nothing early; the others read counts, or go pair by pair, which only a proof can do.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.metal.attend import Past
from qwen3_mlx.metal.matrix import Matrix


def product(x: mx.array, matrix: Matrix) -> mx.array:
    """``x [..., K]`` through ``matrix [N, K]``: ``[..., N]``."""
    if matrix.scales is None:
        return x @ matrix.weight.T
    parts = (matrix.weight, matrix.scales, matrix.biases)
    return mx.quantized_matmul(x, *parts, True, matrix.group, matrix.bits)


def _normed(x: mx.array, norm: mx.array | None, eps: float) -> mx.array:
    return x if norm is None else mx.fast.rms_norm(x, norm, eps)


def matvec(
    x: mx.array,
    matrices: Sequence[Matrix],
    norm: mx.array | None = None,
    eps: float = 0.0,
    residual: mx.array | None = None,
) -> mx.array:
    """As `matvec.matvec`, for any number of tokens."""
    x = _normed(x, norm, eps)
    parts = [product(x, matrix) for matrix in matrices]
    y = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)
    return y if residual is None else residual + y


def gate_up(
    x: mx.array,
    gate: Matrix,
    up: Matrix,
    experts: mx.array | None = None,
    weights: mx.array | None = None,
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> mx.array:
    """As `gate_up.gate_up`, for any number of tokens."""
    x = _normed(x, norm, eps)
    if experts is None or weights is None:
        g, u = product(x, gate), product(x, up)
        return g * mx.sigmoid(g) * u
    rows = mx.repeat(x.reshape(-1, 1, x.shape[-1]), experts.shape[-1], axis=1)
    g, u = routed(rows, gate, experts), routed(rows, up, experts)
    return (g * mx.sigmoid(g) * u * weights[..., None]).astype(x.dtype)


def down(
    h: mx.array, matrix: Matrix, experts: mx.array, residual: mx.array | None = None
) -> mx.array:
    """As `down.down`, for any number of tokens; the sum over experts is in float32."""
    y = routed(h, matrix, experts).astype(mx.float32).sum(axis=-2).astype(h.dtype)
    return y if residual is None else residual + y.reshape(residual.shape)


def routed(x: mx.array, matrix: Matrix, experts: mx.array) -> mx.array:
    """``x [T, top_k, K]`` through each pair's expert: ``[T, top_k, N]``.

    Computed pair by pair: on CUDA, MLX's gathered product takes two minutes to compile.
    """
    rows = []
    for token in range(experts.shape[0]):
        for slot in range(experts.shape[1]):
            one = expert(matrix, experts[token, slot])
            rows.append(product(x[token, slot][None], one))
    return mx.concatenate(rows).reshape(*experts.shape, -1)


def expert(matrix: Matrix, index: mx.array | slice) -> Matrix:
    """One expert of a stack ``[E, N, K]``, or with a slice several."""
    if matrix.scales is None or matrix.biases is None:
        return Matrix(matrix.weight[index])
    parts = (matrix.weight[index], matrix.scales[index], matrix.biases[index])
    return Matrix(*parts, matrix.bits, matrix.group)


def route(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """As `route.route` except for ties; in descending order of weight."""
    weights = mx.softmax(logits.astype(mx.float32), axis=-1, precise=True)
    experts = mx.argsort(-weights, axis=-1)[..., :top_k].astype(mx.uint32)
    chosen = mx.take_along_axis(weights, experts, axis=-1)
    return experts, chosen / chosen.sum(-1, keepdims=True) if normalise else chosen


def attend(
    qkv: mx.array,
    heads: tuple[int, int],
    norms: tuple[mx.array, mx.array],
    eps: float,
    turns: mx.array,
    past: Past,
) -> tuple[mx.array, mx.array]:
    """As `attend.attend` with a `Past`; returns only the tail's used rows."""
    held, recent = (int(past.counts[i]) for i in range(2))
    x = qkv.reshape(1, sum(heads) + heads[1], 1, -1)
    q, k, v = mx.split(x, [heads[0], sum(heads)], axis=1)
    q, k = (_turned(_normed(a, norm, eps), turns) for a, norm in zip((q, k), norms, strict=True))
    tail = [mx.concatenate([past.tail[i, :, :recent], new[0]], axis=1)
            for i, new in enumerate((k, v))]  # fmt: skip
    old = (_unpacked(matrix, qkv.dtype)[:, :, :held] for matrix in (past.keys, past.values))
    keys, values = (mx.concatenate([a, b[None]], axis=2) for a, b in zip(old, tail, strict=True))
    mixed = mx.fast.scaled_dot_product_attention(q, keys, values, scale=q.shape[-1] ** -0.5)
    return mixed.reshape(1, 1, -1), mx.stack(tail)


def _turned(x: mx.array, turns: mx.array) -> mx.array:
    a, b = mx.split(x.astype(mx.float32), 2, axis=-1)
    cos, sin = turns
    return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _unpacked(matrix: Matrix, dtype: mx.Dtype) -> mx.array:
    return matrix.dequantized().astype(dtype) if matrix.bits else matrix.weight
