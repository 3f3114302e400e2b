"""Routing from the router's logits: softmax, top-k and normalisation in one launch.

Of equal logits the lowest index wins; the chosen experts come in descending order of weight.
(MLX's argpartition, the plain path, guarantees nothing: at Qwen3's sizes the highest index wins.)
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Launch, run
from qwen3_mlx.metal.matrix import FLOATS

MAX_EXPERTS = 1024


def reference(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """`route` in float32, with the same order of ties: a stable sort of the negated logits."""
    logits = logits.astype(mx.float32)
    experts = mx.argsort(-logits, axis=-1)[..., :top_k].astype(mx.uint32)
    weights = mx.take_along_axis(mx.softmax(logits, axis=-1, precise=True), experts, axis=-1)
    if normalise:
        weights = weights / weights.sum(-1, keepdims=True)
    return experts, weights


def unsupported_reason(dtype: mx.Dtype, experts: int, top_k: int) -> str | None:
    """Why `route` can't choose `top_k` of `experts` by logits of `dtype`, or None."""
    if dtype not in FLOATS:
        return f"logits are {dtype}"
    if not top_k <= min(experts, SIMD):
        return f"top {top_k} of {experts}: expected at most {min(experts, SIMD)}"
    if experts > MAX_EXPERTS:
        return f"{experts} experts: expected at most {MAX_EXPERTS}"
    return None


def route(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """``logits [..., E]`` of T tokens to ``[T, top_k]`` uint32 experts and float32 weights."""
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


@dataclass(frozen=True, slots=True)
class Groups:
    """The experts that R rows chose, each listed once."""

    experts: mx.array
    """``[1 + P]`` int32: their number, then their indices; P is R · top_k, or E if less."""
    members: mx.array
    """``[P, R]`` int32: the slot at which a row has the expert, or -1."""
    weights: mx.array
    """``[R, top_k]`` float32: each row's weights of its experts."""
    chosen: mx.array
    """``[R, top_k]`` uint32: each row's experts."""

    @property
    def top_k(self) -> int:
        """The number of experts per row."""
        return self.chosen.shape[-1]

    @property
    def most(self) -> int:
        """P, the most experts that can be listed."""
        return self.members.shape[0]


MOST_ROWS = 16
"""Rows that `grouped` takes at most: each has a simdgroup of one threadgroup."""


def grouped(logits: mx.array, top_k: int, normalise: bool) -> Groups:
    """`route` for ``logits [R, ..., E]``, R at most `MOST_ROWS`, and the list of chosen experts."""
    count, rows = logits.shape[-1], logits.shape[0]
    most = min(rows * top_k, count)
    chosen, weights, experts, members = run(
        Launch(
            "route",
            {"logits": logits},
            {
                "experts": ((rows, top_k), mx.uint32),
                "weights": ((rows, top_k), mx.float32),
                "groups": ((1 + most,), mx.int32),
                "members": ((most, rows), mx.int32),
            },
            {
                "T": logits.dtype,
                "E": count,
                "TOPK": top_k,
                "NORMALISE": normalise,
                "MOST": MOST_ROWS,
            },
            (rows * SIMD, 1, 1),
            (rows * SIMD, 1, 1),
        )
    )
    return Groups(experts, members, weights, chosen)
