"""The Mixture-of-Experts feed-forward network: a router and its stacked experts."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.metal.layer import Routed
from qwen3_mlx.nn.backend import PLAIN, Backend
from qwen3_mlx.nn.experts import ExpertLinear
from qwen3_mlx.nn.fused_experts import matrix_of
from qwen3_mlx.nn.linear import Linear
from qwen3_mlx.nn.mlp import swiglu
from qwen3_mlx.nn.rows import apart

SORT_FROM = 64
"""(token, expert) pairs from which sorting by expert pays: each expert's weights are read once."""


def route(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """The `top_k` experts of each token and their weights, from router ``logits [..., E]``.

    Softmax over all experts in float32, then the largest `top_k`, divided by their sum if
    `normalise` (transformers' Qwen3MoeTopKRouter). Returns ``[..., top_k]`` uint32 and float32.
    """
    weights = mx.softmax(logits.astype(mx.float32), axis=-1, precise=True)
    # the choice has no gradient; the weights of the chosen experts do
    experts = mx.argpartition(-mx.stop_gradient(weights), kth=top_k - 1, axis=-1)[..., :top_k]
    chosen = mx.take_along_axis(weights, experts, axis=-1)
    if normalise:
        chosen = chosen / chosen.sum(axis=-1, keepdims=True)
    return experts, chosen


class Experts(nn.Module):
    """E SwiGLU networks with stacked weights; each token passes through its routed experts."""

    backend: Backend = PLAIN

    def __init__(self, hidden_size: int, intermediate_size: int, experts: int) -> None:
        super().__init__()
        self.gate_proj = ExpertLinear(hidden_size, intermediate_size, experts)
        self.up_proj = ExpertLinear(hidden_size, intermediate_size, experts)
        self.down_proj = ExpertLinear(intermediate_size, hidden_size, experts)

    def __call__(self, x: mx.array, experts: mx.array, sorting: bool = True) -> mx.array:
        """Pass ``x [T, C]`` through its ``experts [T, top_k]``; returns ``[T, top_k, C]``.

        sorting: if False, pairs are never sorted or grouped, however many there are.
        """
        tokens, top_k = experts.shape
        pairs = experts.flatten()  # [T * top_k]
        rows = mx.arange(tokens * top_k, dtype=mx.uint32) // top_k
        sort = sorting and pairs.size >= SORT_FROM
        if sort:
            order = mx.argsort(pairs)
            pairs, rows = pairs[order], rows[order]
        through = self.backend.through_experts(x, pairs, sort, self.gate_proj)
        # The axis is added before the gather: on Metal, MLX 0.32's sorted kernel misreads an axis
        # that exists only in the strides (mlx#3960).
        x = x[:, None, :][rows]  # [T * top_k, 1, C]
        hidden = swiglu(through(self.gate_proj, x), through(self.up_proj, x))
        out = through(self.down_proj, hidden)
        if sort:
            out = out[mx.argsort(order)]
        return out.reshape(tokens, top_k, -1)


class MoE(nn.Module):
    """``Σ weight_e · SwiGLU_e(x)`` over the routed experts; no shared expert."""

    backend: Backend = PLAIN

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        experts: int,
        top_k: int,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.top_k, self.normalise = top_k, normalise
        self.gate = Linear(hidden_size, experts, bias=False)
        self.switch_mlp = Experts(hidden_size, intermediate_size, experts)

    def __call__(self, x: mx.array) -> mx.array:
        """Transform ``x [B, L, C]`` to ``[B, L, C]``."""
        flat = x.reshape(-1, x.shape[-1])  # [B * L, C]
        backend = PLAIN if self.training else self.backend  # the kernels have no gradient
        logits = self.gate(x).reshape(len(flat), -1)
        plain = partial(self.plain, sorting=not apart(x))
        return backend.experts(flat, logits, self.routed, plain).reshape(x.shape)

    def plain(self, x: mx.array, logits: mx.array, sorting: bool = True) -> mx.array:
        """``x [T, C]`` with router ``logits [T, E]``, to ``[T, C]``, in MLX's operations."""
        experts, weights = route(logits, self.top_k, self.normalise)
        out = self.switch_mlp(x, experts, sorting).astype(mx.float32)
        # The weighted sum stays in float32 and is rounded once.
        return (out * weights[..., None]).sum(axis=-2).astype(x.dtype)

    def routed(self) -> Routed:
        """The experts' matrices and the router's settings, in the kernels' format."""
        stack = self.switch_mlp
        gate, up, down = (matrix_of(m) for m in (stack.gate_proj, stack.up_proj, stack.down_proj))
        return Routed(gate, up, down, self.top_k, self.normalise)
