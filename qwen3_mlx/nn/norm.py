"""Root-mean-square normalisation (arXiv 1910.07467), Qwen3's only norm."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) · weight`` over the last axis, summed in float32."""

    def __init__(self, dims: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.ones((dims,))
        self.eps = eps

    def _extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"

    def __call__(self, x: mx.array) -> mx.array:
        """Normalise ``x [..., dims]``; the shape and dtype stay."""
        return mx.fast.rms_norm(x, self.weight, self.eps)
