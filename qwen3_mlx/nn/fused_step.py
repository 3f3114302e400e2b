"""One token through the whole network in few launches: seven a Mixture-of-Experts layer, five a
dense one (MLX's own operations make 30 and 19).

The plain modules stay the truth and do everything else; this reads their weights. The step is
compiled once, so that a token costs no Python: the position is an array, the key/value buffers
have few sizes, and what a step appends lives in short tails (see `qwen3_mlx.metal.attend`).
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from qwen3_mlx.metal import attend, dispatch, down, gate_up, matvec, rotation
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices
from qwen3_mlx.nn import fused_experts
from qwen3_mlx.nn.attention import Attention
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.tailed import TailedCache, tailed
from qwen3_mlx.nn.fused_experts import matrix_of
from qwen3_mlx.nn.lora import STANDS_ASIDE, adapted
from qwen3_mlx.nn.mlp import MLP
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.norm import RMSNorm
from qwen3_mlx.nn.rope import rotation_table
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

Norms = tuple[RMSNorm, RMSNorm]
"""Before attention, and before the feed-forward network."""


class FusedLayer:
    """A `Block` for one token."""

    def __init__(self, attention: Attention, mlp: MLP | MoE, norms: Norms) -> None:
        a = attention
        self.qkv = [matrix_of(m) for m in (a.q_proj, a.k_proj, a.v_proj)]
        self.out = matrix_of(a.o_proj)
        self.heads = (a.heads, a.kv_heads)
        self.head_norms = (a.q_norm.weight, a.k_norm.weight)
        self.norms = (norms[0].weight, norms[1].weight)
        self.eps = norms[0].eps
        self.routed = mlp.routed() if isinstance(mlp, MoE) else None
        network = mlp.switch_mlp if isinstance(mlp, MoE) else mlp
        self.gate, self.up = matrix_of(network.gate_proj), matrix_of(network.up_proj)
        self.down = matrix_of(network.down_proj)
        self.router = matrix_of(mlp.gate) if isinstance(mlp, MoE) else None

    def unavailable_reason(self, dtype: mx.Dtype) -> str | None:
        """Why the kernels can't run this layer, or None."""
        if reason := attend.unsupported_dim(len(self.head_norms[0])):
            return reason
        for together in (self.qkv, [self.out], [self.gate, self.up], [self.down], [self.router]):
            matrices = [matrix for matrix in together if matrix is not None]
            if matrices and (reason := unsupported_matrices(matrices, dtype)):
                return reason
        return None

    def __call__(
        self, x: mx.array, turns: mx.array, past: attend.Past
    ) -> tuple[mx.array, mx.array]:
        """Transform ``x [1, 1, C]``, its heads rotated by `turns`; returns it and the new tail."""
        qkv = matvec.matvec(x, self.qkv, self.norms[0], self.eps)
        mixed, tail = attend.attend(qkv, self.heads, self.head_norms, self.eps, turns, past)
        x = matvec.matvec(mixed, [self.out], residual=x)
        if self.routed is None or self.router is None:
            h = gate_up.gate_up(x, self.gate, self.up, norm=self.norms[1], eps=self.eps)
            return matvec.matvec(h, [self.down], residual=x), tail
        logits = matvec.matvec(x, [self.router], self.norms[1], self.eps)
        h, experts = fused_experts.hidden(x, logits, self.routed, self.norms[1], self.eps)
        return down.down(h, self.down, experts, residual=x), tail


class FusedStep:
    """One token through a network, compiled; made once for a conversation.

    It keeps the weights it was made with: make another after replacing them.
    """

    def __init__(self, network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED) -> None:
        self.network, self.cache_format = network, cache_format
        tied = "lm_head" not in network
        self.head = matrix_of(network.model.embed_tokens if tied else network.lm_head)
        self.layers = [
            FusedLayer(b.self_attn, b.mlp, (b.input_layernorm, b.post_attention_layernorm))
            for b in network.layers
        ]
        first = network.layers[0].self_attn
        self.table = rotation_table(first.head_dim, first.rope.rope)
        self._forward: Callable[..., tuple[mx.array, list[mx.array]]] = mx.compile(self._layers)

    @classmethod
    def if_available(
        cls, network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED
    ) -> FusedStep | None:
        """The step of `network`, or None where it takes the plain path."""
        return None if unavailable_reason(network, cache_format) else cls(network, cache_format)

    def make_cache(self) -> list[KVCache]:
        """An empty cache for one conversation, as `Qwen3.make_cache`."""
        return [tailed(self.cache_format, self.network) for _ in self.layers]

    def __call__(self, tokens: mx.array, cache: list[KVCache]) -> mx.array:
        """``tokens [1, 1]`` to logits ``[1, 1, V]``, as `Qwen3`; `cache` grows."""
        layers = [layer for layer in cache if isinstance(layer, TailedCache)]
        if len(layers) < len(cache) or not cache[0].state or tokens.size != 1:
            return self.network(tokens, cache)
        pasts = [layer.open() for layer in layers]
        counts = mx.array([layers[0].held, layers[0].recent], mx.int32)
        logits, tails = self._forward(tokens, counts, pasts)
        for layer, tail in zip(layers, tails, strict=True):
            layer.grow(tail)
        return logits

    def _layers(
        self,
        tokens: mx.array,
        counts: mx.array,
        pasts: list[tuple[mx.array, ...]],
    ) -> tuple[mx.array, list[mx.array]]:
        x = self.network.model.embed_tokens(tokens)
        turns = rotation.rotation(self.table, counts)
        tails = []
        for layer, past in zip(self.layers, pasts, strict=True):
            x, tail = layer(x, turns, self._past(past, counts))
            tails.append(tail)
        return self._logits(x), tails

    def _past(self, arrays: tuple[mx.array, ...], counts: mx.array) -> attend.Past:
        """Name the arrays of `TailedCache.open`, which a trace takes without names."""
        *parts, tail = arrays
        half, bits = len(parts) // 2, self.cache_format.bits
        packing = (bits, self.cache_format.group(self.network.head_dim)) if bits else (0, 0)

        def matrix(weight: mx.array, *constants: mx.array) -> Matrix:
            scales, biases = constants or (None, None)
            return Matrix(weight, scales, biases, *packing)

        return attend.Past(matrix(*parts[:half]), matrix(*parts[half:]), tail, counts)

    def _logits(self, x: mx.array) -> mx.array:
        norm = self.network.model.norm
        if unsupported_matrices([self.head], x.dtype):
            return self.network.head(norm(x))
        return matvec.matvec(x, [self.head], norm.weight, norm.eps)


def unavailable_reason(
    network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED
) -> str | None:
    """Why `network` doesn't decode in fused steps on this machine, or None."""
    if cache_format.window is not None:
        return "the kernel sees all of the past, not a window of it"
    if adapted(network):
        return STANDS_ASIDE
    moe = any(isinstance(block.mlp, MoE) for block in network.layers)
    wanted = (*dispatch.STEP, *(dispatch.EXPERTS if moe else ()))
    if reason := dispatch.unavailable_reason(
        *wanted, *(dispatch.PACKED if cache_format.bits else ())
    ):
        return reason
    dtype = network.model.norm.weight.dtype
    reasons = (layer.unavailable_reason(dtype) for layer in FusedStep(network).layers)
    return next((reason for reason in reasons if reason), None)
