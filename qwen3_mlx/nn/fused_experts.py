"""A few tokens through a Mixture of Experts in two or three launches, where the kernels run.

The decode step of one token is `qwen3_mlx.nn.fused_step`; this serves what is left:
short prompts, the last tokens of a chunk, and batches.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.metal import dispatch, down, gate_up, route, tuning
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices


def matrix_of(module: nn.Module) -> Matrix:
    """The weights of a linear layer, packed or plain, one matrix or one an expert."""
    if "scales" not in module:
        return Matrix(module.weight)
    return Matrix(
        module.weight, module.scales, module.get("biases"), module.bits, module.group_size
    )


def unavailable_reason(x: mx.array, moe: Any) -> str | None:
    """Why ``x [T, C]`` doesn't go through `moe` in fused launches, or None."""
    if moe.training:
        return "the kernels have no gradient"
    if len(x) > gate_up.MAX_TOKENS:
        return f"{len(x)} tokens: expected at most {gate_up.MAX_TOKENS}"
    if reason := dispatch.unavailable_reason(*dispatch.EXPERTS):
        return reason
    stack = moe.switch_mlp
    gate, up, last = (matrix_of(m) for m in (stack.gate_proj, stack.up_proj, stack.down_proj))
    if reason := route.unsupported_reason(x.dtype, gate.weight.shape[0], moe.top_k):
        return reason
    return unsupported_matrices([gate, up], x.dtype) or unsupported_matrices([last], x.dtype)


def experts(x: mx.array, logits: mx.array, moe: Any) -> mx.array:
    """``x [T, C]`` and the router's ``logits [T, E]`` to ``[T, C]``."""
    stack = moe.switch_mlp
    h, chosen = hidden(x, logits, moe, (matrix_of(stack.gate_proj), matrix_of(stack.up_proj)))
    return down.down(h, matrix_of(stack.down_proj), chosen)


def hidden(
    x: mx.array,
    logits: mx.array,
    moe: Any,
    matrices: tuple[Matrix, Matrix],
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> tuple[mx.array, mx.array]:
    """The experts' hidden layers ``[T, top_k, F]``, weighted, and which experts they are."""
    if tuning.choosing():
        return gate_up.route_and_gate_up(x, *matrices, logits, moe.top_k, moe.normalise, norm, eps)
    chosen, weights = route.route(logits, moe.top_k, moe.normalise)
    return gate_up.gate_up(x, *matrices, chosen, weights, norm, eps), chosen
