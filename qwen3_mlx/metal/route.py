"""The router behind its matrix: softmax, the largest top_k, normalised, in one launch.

Ties: of equal logits the lowest index wins, and choices come in descending order of weight.
(MLX's argpartition, the plain path, gives no promise: at Qwen3's sizes the highest index wins.)
"""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Launch, run
from qwen3_mlx.metal.matrix import FLOATS

MAX_EXPERTS = 1024


def reference(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """``route`` in float32, with its tie rule: a stable sort of the negated logits."""
    logits = logits.astype(mx.float32)
    experts = mx.argsort(-logits, axis=-1)[..., :top_k].astype(mx.uint32)
    weights = mx.take_along_axis(mx.softmax(logits, axis=-1, precise=True), experts, axis=-1)
    if normalise:
        weights = weights / weights.sum(-1, keepdims=True)
    return experts, weights


def unsupported_reason(dtype: mx.Dtype, experts: int, top_k: int) -> str | None:
    """Why `route` can't choose `top_k` of so many experts by logits of `dtype`, or None."""
    if dtype not in FLOATS:
        return f"logits are {dtype}"
    if not top_k <= min(experts, SIMD):
        return f"top {top_k} of {experts}: expected at most {min(experts, SIMD)}"
    if experts > MAX_EXPERTS:
        return f"{experts} experts: expected at most {MAX_EXPERTS}"
    return None


def route(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """``logits [..., E]`` to ``[T, top_k]`` uint32 experts and float32 weights, T tokens."""
    experts = logits.shape[-1]
    tokens = logits.size // experts
    indices, weights = run(
        Launch(
            "route",
            {"logits": logits},
            {
                "experts": ((tokens, top_k), mx.uint32),
                "weights": ((tokens, top_k), mx.float32),
            },
            {"T": logits.dtype, "E": experts, "TOPK": top_k, "NORMALISE": normalise},
            (tokens * SIMD, 1, 1),
            (SIMD, 1, 1),
        )
    )
    return indices, weights
