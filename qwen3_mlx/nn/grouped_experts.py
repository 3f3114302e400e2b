"""Many tokens through a Mixture of Experts on matrix units, which take its weights packed.

Nothing is unpacked and nothing waited for: `qwen3_mlx.nn.fused_experts` for prompts.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from qwen3_mlx.device import unpack_policy
from qwen3_mlx.metal import dispatch, gather_matmul, route
from qwen3_mlx.nn.fused_experts import matrix_of


def unavailable_reason(x: mx.array, moe: Any) -> str | None:
    """Why ``x [T, C]`` doesn't go through `moe` so, or None."""
    if moe.training:
        return "the kernels have no gradient"
    if unpack_policy.is_forced():
        return "switched off by QWEN3_MLX_PREFILL"
    if reason := dispatch.unavailable_reason(*dispatch.PROMPT):
        return reason
    stack = moe.switch_mlp
    matrices = (matrix_of(m) for m in (stack.gate_proj, stack.up_proj, stack.down_proj))
    count = stack.gate_proj.weight.shape[0]
    return route.unsupported_reason(x.dtype, count, moe.top_k) or gather_matmul.unsupported_reason(
        x.dtype, *matrices
    )


def experts(x: mx.array, logits: mx.array, moe: Any) -> mx.array:
    """``x [T, C]`` and the router's ``logits [T, E]`` to ``[T, C]``."""
    stack = moe.switch_mlp
    chosen, weights = route.route(logits, moe.top_k, moe.normalise)
    plan = gather_matmul.plan(chosen, logits.shape[-1])
    gate, up, down = (matrix_of(m) for m in (stack.gate_proj, stack.up_proj, stack.down_proj))
    h = gather_matmul.gate_up(x, gate, up, weights, plan)
    out = gather_matmul.down(h, down, plan)
    return out.astype(mx.float32).sum(axis=-2).astype(x.dtype)  # rounded once
