"""The routed experts in two or three launches of our kernels, from matrices and numbers.

`few` serves short prompts, the last tokens of a chunk, and batches; `many` serves prompts, on
matrix units, with nothing unpacked and nothing waited for. The decode step of one token is
`qwen3_mlx.nn.fused_step`.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.device import unpack_policy
from qwen3_mlx.metal import dispatch, down, gate_up, gather_matmul, route, tuning
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices


def matrix_of(module: nn.Module) -> Matrix:
    """The weights of a linear layer, packed or plain, one matrix or one an expert."""
    if "scales" not in module:
        return Matrix(module.weight)
    return Matrix(
        module.weight, module.scales, module.get("biases"), module.bits, module.group_size
    )


@dataclass(frozen=True, slots=True)
class Routed:
    """E experts, one stacked matrix a projection, and how a token is routed to `top_k` of them."""

    gate: Matrix
    up: Matrix
    down: Matrix
    top_k: int
    normalise: bool

    @property
    def count(self) -> int:
        """E."""
        return self.gate.weight.shape[0]

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype of the activations that the kernels can multiply with these weights."""
        return (self.gate.weight if self.gate.scales is None else self.gate.scales).dtype


def few_unavailable(experts: Routed) -> str | None:
    """Why `few` can't run with these experts on this machine, or None."""
    if reason := dispatch.unavailable_reason(*dispatch.EXPERTS):
        return reason
    dtype = experts.dtype
    return (
        route.unsupported_reason(dtype, experts.count, experts.top_k)
        or unsupported_matrices([experts.gate, experts.up], dtype)
        or unsupported_matrices([experts.down], dtype)
    )


def many_unavailable(experts: Routed) -> str | None:
    """Why `many` can't run with these experts on this machine, or None."""
    if unpack_policy.is_forced():
        return f"switched off by {unpack_policy.VARIABLE}"
    if reason := dispatch.unavailable_reason(*dispatch.PROMPT):
        return reason
    dtype, matrices = experts.dtype, (experts.gate, experts.up, experts.down)
    return route.unsupported_reason(
        dtype, experts.count, experts.top_k
    ) or gather_matmul.unsupported_reason(dtype, *matrices)


def few(x: mx.array, logits: mx.array, experts: Routed) -> mx.array:
    """At most `gate_up.MAX_TOKENS` tokens ``x [T, C]``, logits ``[T, E]``, to ``[T, C]``."""
    h, chosen = hidden(x, logits, experts)
    return down.down(h, experts.down, chosen)


def hidden(
    x: mx.array,
    logits: mx.array,
    experts: Routed,
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> tuple[mx.array, mx.array]:
    """The experts' hidden layers ``[T, top_k, F]``, weighted, and the numbers of the experts."""
    gate, up, top_k, normalise = experts.gate, experts.up, experts.top_k, experts.normalise
    if tuning.choosing():
        return gate_up.route_and_gate_up(x, gate, up, logits, top_k, normalise, norm, eps)
    chosen, weights = route.route(logits, top_k, normalise)
    return gate_up.gate_up(x, gate, up, chosen, weights, norm, eps), chosen


def many(x: mx.array, logits: mx.array, experts: Routed) -> mx.array:
    """Tokens ``x [T, C]``, router's ``logits [T, E]``, to ``[T, C]``; rows sorted by expert."""
    chosen, weights = route.route(logits, experts.top_k, experts.normalise)
    plan = gather_matmul.plan(chosen, experts.count)
    h = gather_matmul.gate_up(x, experts.gate, experts.up, weights, plan)
    out = gather_matmul.down(h, experts.down, plan)
    return out.astype(mx.float32).sum(axis=-2).astype(x.dtype)  # rounded once
