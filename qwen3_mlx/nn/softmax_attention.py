"""Softmax attention: MLX's fused kernel where it pays, else composed, or a tile of keys at a time.

MLX's fused attention never stores the scores of all queries against all keys; its fallback does:
``4 · H · L · S`` bytes, 8.6 GB for 2,048 tokens of Qwen3-8B after 32,768. If that would exceed
`SCORES`, the keys are split into tiles, with a running maximum and sum in float32
(arXiv 1805.02867).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.device.buffer_sizes import COMPOSED_SCORES, SCORES
from qwen3_mlx.nn.evaluate import evaluate_now

FUSED_DIMS = (64, 80, 128)
"""Head sizes that MLX's fused attention of many queries supports (Metal and CUDA, 0.32)."""

VECTOR_QUERIES = 3
"""Most queries for which MLX has a kernel on CUDA that isn't planned anew for each length."""

_NOTHING = -1e30  # below every score, but finite: a query that has seen no key yet has no weight

Fetch = Callable[[int, int], tuple[mx.array, mx.array]]
"""Returns the keys and values of rows a to b, ``[B, K, b - a, D]`` each."""


@dataclass(frozen=True, slots=True)
class Window:
    """The rows that a causal query sees: the first `sinks` and the last `size`."""

    size: int
    sinks: int


def attention(
    q: mx.array, fetch: Fetch, rows: int, scale: float, window: Window | None = None
) -> mx.array:
    """``softmax(q kᵀ · scale) v``, causal; the last query is at the last of the `rows`.

    ``q [B, H, L, D]``; H is a multiple of the keys' heads. Returns ``[B, H, L, D]``.
    """
    queries, dim = q.shape[2:]
    scores = 4 * q.size // dim * rows  # bytes, in float32
    if scores > SCORES and not _is_fused(dim):
        return _in_tiles(q, fetch, rows, scale, window)
    if queries > VECTOR_QUERIES and scores <= COMPOSED_SCORES.get(backend.device(), 0):
        return composed(q, *fetch(0, rows), scale, visible(0, rows, rows, queries, window))
    mask: mx.array | str | None = "causal" if queries > 1 else None
    if window is not None and rows > window.size:
        mask = visible(0, rows, rows, queries, window)
    return mx.fast.scaled_dot_product_attention(q, *fetch(0, rows), scale=scale, mask=mask)


def composed(
    q: mx.array, keys: mx.array, values: mx.array, scale: float, seen: mx.array
) -> mx.array:
    """`attention` as two products around a softmax in float32; seen: ``[L, S]`` bool."""
    scores = grouped((q * scale).astype(mx.float32), keys.astype(mx.float32).swapaxes(-1, -2))
    weights = mx.softmax(mx.where(seen, scores, -mx.inf), axis=-1)
    return grouped(weights.astype(values.dtype), values)


def _is_fused(dim: int) -> bool:
    return backend.device() != "cpu" and dim in FUSED_DIMS


def visible(a: int, b: int, rows: int, queries: int, window: Window | None) -> mx.array:
    """``[L, b - a]`` bool: which of the rows a to b each of the last L queries sees."""
    key = mx.arange(a, b)
    query = mx.arange(rows - queries, rows)[:, None]
    seen = key <= query
    if window is not None:
        seen = seen & ((key < window.sinks) | (key > query - window.size))
    return seen


def _in_tiles(
    q: mx.array, fetch: Fetch, rows: int, scale: float, window: Window | None
) -> mx.array:
    B, H, L, D = q.shape
    size = max(SCORES // (4 * B * H * L), 64)
    top = mx.full((B, H, L, 1), _NOTHING, mx.float32)  # the largest score so far
    total = mx.zeros((B, H, L, 1), mx.float32)  # Σ exp(score - top)
    mixed = mx.zeros((B, H, L, D), mx.float32)  # Σ exp(score - top) · value
    q = q * scale
    evaluate_now(q)  # frees the arrays that q was computed from
    for a in range(0, rows, size):
        b = min(a + size, rows)
        k, v = fetch(a, b)
        scores = grouped(q, k.swapaxes(-1, -2)).astype(mx.float32)
        if window is not None or b > rows - L + 1:
            scores = mx.where(visible(a, b, rows, L, window), scores, -mx.inf)
        new = mx.maximum(top, scores.max(axis=-1, keepdims=True))
        weights, fade = mx.exp(scores - new), mx.exp(top - new)
        total = fade * total + weights.sum(axis=-1, keepdims=True)
        mixed = fade * mixed + grouped(weights.astype(v.dtype), v).astype(mx.float32)
        top = new
        evaluate_now(mixed, total)  # limits memory to one tile
    return (mixed / total).astype(q.dtype)


def grouped(x: mx.array, y: mx.array) -> mx.array:
    """``x [B, H, L, ·] @ y [B, K, ·, ·]``: each head of y serves H / K heads of x."""
    B, H, L, _ = x.shape
    return (x.reshape(B, y.shape[1], -1, x.shape[-1]) @ y).reshape(B, H, L, -1)
