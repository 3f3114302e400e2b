"""The dense feed-forward network (SwiGLU)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.nn.linear import Linear


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """``silu(gate) · up`` (arXiv 2002.05202), elementwise."""
    return nn.silu(gate) * up


class MLP(nn.Module):
    """``down(silu(gate(x)) · up(x))``, without biases."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Transform ``x [B, L, C]`` to ``[B, L, C]``."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
