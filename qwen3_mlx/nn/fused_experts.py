"""The routed experts in two or three launches of this package's kernels, from matrices and numbers.

`few` serves short prompts, the last tokens of a chunk, and batches; `many` serves prompts on
matrix units, without unpacking weights or evaluating early. `qwen3_mlx.nn.fused_step` decodes one
token.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.device import unpack_policy
from qwen3_mlx.metal import dispatch, down, gather_matmul, route
from qwen3_mlx.metal.layer import Routed, hidden
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices
from qwen3_mlx.metal.verdict import Verdict


def matrix_of(module: nn.Module) -> Matrix:
    """The weights of a linear layer, packed or plain: one matrix, or one per expert."""
    if "scales" not in module:
        return Matrix(module.weight)
    return Matrix(
        module.weight, module.scales, module.get("biases"), module.bits, module.group_size
    )


def few_unavailable(experts: Routed, verdict: Verdict | None = None) -> str | None:
    """Why `few` can't run with these experts on this machine, by its `verdict`, or None."""
    if reason := dispatch.unavailable_reason(*dispatch.EXPERTS, verdict=verdict):
        return reason
    dtype = experts.dtype
    return (
        route.unsupported_reason(dtype, experts.count, experts.top_k)
        or unsupported_matrices([experts.gate, experts.up], dtype)
        or unsupported_matrices([experts.down], dtype)
    )


def many_unavailable(experts: Routed, verdict: Verdict | None = None) -> str | None:
    """Why `many` can't run with these experts on this machine, by its `verdict`, or None."""
    if unpack_policy.is_forced():
        return f"switched off by {unpack_policy.VARIABLE}"
    if reason := dispatch.unavailable_reason(*dispatch.PROMPT, verdict=verdict):
        return reason
    dtype, matrices = experts.dtype, (experts.gate, experts.up, experts.down)
    return route.unsupported_reason(
        dtype, experts.count, experts.top_k
    ) or gather_matmul.unsupported_reason(dtype, *matrices)


def few(x: mx.array, logits: mx.array, experts: Routed) -> mx.array:
    """At most `gate_up.MAX_TOKENS` tokens ``x [T, C]``, ``logits [T, E]``, to ``[T, C]``."""
    h, chosen = hidden(x, logits, experts)
    return down.down(h, experts.down, chosen)


def many(x: mx.array, logits: mx.array, experts: Routed) -> mx.array:
    """Tokens ``x [T, C]``, router ``logits [T, E]``, to ``[T, C]``; rows are sorted by expert."""
    chosen, weights = route.route(logits, experts.top_k, experts.normalise)
    plan = gather_matmul.plan(chosen, experts.count)
    h = gather_matmul.gate_up(x, experts.gate, experts.up, weights, plan)
    out = gather_matmul.down(h, experts.down, plan)
    return out.astype(mx.float32).sum(axis=-2).astype(x.dtype)  # float32 sum, rounded once
