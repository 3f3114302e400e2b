"""Grouped-query attention with normalised queries and keys."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.config.rope import Rope
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.linear import Linear
from qwen3_mlx.nn.norm import RMSNorm
from qwen3_mlx.nn.rope import RotaryEmbedding
from qwen3_mlx.nn.rows import Together
from qwen3_mlx.nn.softmax_attention import attention


class Attention(nn.Module):
    """``softmax(q kᵀ / √D) v``, causal; K key/value heads serve H query heads.

    Specific to Qwen3: RMSNorm over head_dim on every query and key head, before RoPE, and no bias
    (arXiv 2505.09388 §2).
    """

    def __init__(
        self, hidden_size: int, heads: int, kv_heads: int, head_dim: int, eps: float, rope: Rope
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scale = head_dim**-0.5
        self.q_proj = Linear(hidden_size, heads * head_dim, bias=False)
        self.k_proj = Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.v_proj = Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.o_proj = Linear(heads * head_dim, hidden_size, bias=False)
        self.q_norm = RMSNorm(head_dim, eps)
        self.k_norm = RMSNorm(head_dim, eps)
        self.rope = RotaryEmbedding(head_dim, rope)

    def __call__(self, x: mx.array, cache: KVCache | Together | None = None) -> mx.array:
        """Let ``x [B, L, C]`` attend to itself and `cache`, which grows by L; the shape stays."""
        B, L, _ = x.shape
        q = self.q_norm(self.q_proj(x).reshape(B, L, self.heads, self.head_dim))
        k = self.k_norm(self.k_proj(x).reshape(B, L, self.kv_heads, self.head_dim))
        v = self.v_proj(x).reshape(B, L, self.kv_heads, self.head_dim)
        q, k, v = (t.transpose(0, 2, 1, 3) for t in (q, k, v))  # [B, H|K, L, D]
        offset: int | mx.array = cache.offset if cache is not None else 0
        q, k = self.rope(q, offset), self.rope(k, offset)
        if cache is not None:
            out = cache.attend(q, k, v, self.scale)
        else:
            out = attention(q, lambda a, b: (k[..., a:b, :], v[..., a:b, :]), L, self.scale)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, L, -1))
