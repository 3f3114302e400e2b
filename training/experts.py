"""Mixture-of-Experts layers for training and scoring: every expert computed, what it adds weighted.

The network sends a token through its few experts only (`qwen3_mlx.nn.moe`). With experts this
small, computing all of them as three plain matrix products is faster where thousands of tokens meet
at once: four times the arithmetic, but nothing sorted, gathered or scattered, forward or backward,
and bfloat16 on every backend. The result is the network's: a weight of zero adds zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.nn.experts import ExpertLinear
from qwen3_mlx.nn.mlp import MLP, swiglu
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.transformer import Block, Qwen3Network

_AT_ONCE = 1 << 16  # tokens
_WIDTHS = 64  # rows are padded to multiples of this, so that few shapes occur
_DEAD = 0.01  # of an even share


@dataclass(frozen=True, slots=True)
class Routing:
    """One layer's routing of N tokens to E experts."""

    probabilities: mx.array
    """``[N, E]`` float32: softmax over all experts."""
    chosen: mx.array
    """``[N, E]`` bool: whether the token went through the expert."""


def all_experts(moe: MoE, x: mx.array) -> tuple[mx.array, Routing]:
    """Compute ``moe(x)``, ``x [B, L, C]``, with all experts; returns its routing too."""
    flat, projections = x.reshape(-1, x.shape[-1]), moe.switch_mlp
    logits = moe.gate(flat)
    routing = _route(moe, logits)
    weights = mx.where(routing.chosen, routing.probabilities, 0)
    if moe.normalise:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    gate = flat @ projections.gate_proj.weight.flatten(0, 1).T  # [N, E * F]
    up = flat @ projections.up_proj.weight.flatten(0, 1).T
    hidden = swiglu(gate, up).reshape(*weights.shape, -1) * weights[..., None].astype(x.dtype)
    down = projections.down_proj.weight.swapaxes(-1, -2).flatten(0, 1)  # [E * F, C]
    out = hidden.flatten(1) @ down  # the sum over the experts is the product's own
    return out.reshape(x.shape), routing


def _route(moe: MoE, logits: mx.array) -> Routing:
    """The choice of `qwen3_mlx.nn.moe.route`; of equal experts the first, as in the kernels.

    By counting who is larger: sorting has no gradient, and MLX's on CUDA takes 65,535 rows at most.
    """
    probabilities = mx.softmax(logits.astype(mx.float32), axis=-1, precise=True)
    p = mx.stop_gradient(probabilities)
    other, this = p[:, None, :], p[:, :, None]
    place = mx.arange(p.shape[-1])
    better = (other > this) | ((other == this) & (place[None, :] < place[:, None]))  # [N, E, E]
    return Routing(probabilities, better.sum(axis=-1) < moe.top_k)


def feed_forward(mlp: MLP | MoE, x: mx.array, seen: list[Routing] | None = None) -> mx.array:
    """Compute ``mlp(x)``; a Mixture of Experts adds its routing to `seen`."""
    if not isinstance(mlp, MoE) or not isinstance(mlp.switch_mlp.gate_proj, ExpertLinear):
        return mlp(x)  # dense, or packed
    out, routing = all_experts(mlp, x)
    if seen is not None:
        seen.append(routing)
    return out


def run_blocks(layers: Iterable[Block], x: mx.array, seen: list[Routing]) -> mx.array:
    """``x [B, L, C]`` through whole layers, without a cache."""
    for layer in layers:
        x = x + layer.self_attn(layer.input_layernorm(x))
        x = x + feed_forward(layer.mlp, layer.post_attention_layernorm(x), seen)
    return x


def load_balance(seen: Sequence[Routing]) -> mx.array:
    """The load-balancing loss, summed over the layers; 0 without experts.

    A layer's is ``E · Σ_e f_e · p_e`` with f_e the fraction of the tokens that went through expert
    e and p_e its mean router probability (arXiv 2101.03961, eq. 4 to 6, for top-k; f is constant to
    the gradient). Both are means over the whole batch of a step, as in arXiv 2501.11873, not over a
    sequence: experts may specialise. top_k per layer if the load is even, E at worst.
    """
    total = mx.array(0.0)
    for routing in seen:
        fraction = routing.chosen.astype(mx.float32).mean(axis=0)
        total = total + fraction.size * (fraction * routing.probabilities.mean(axis=0)).sum()
    return total


class LoadMeter:
    """Counts which experts texts go through."""

    def __init__(self, network: Qwen3Network) -> None:
        self._network = network
        moe = [layer.mlp for layer in network.layers if isinstance(layer.mlp, MoE)]
        self._counts = [[0] * len(mlp.gate.weight) for mlp in moe]
        self.tokens = 0

    def add(self, sequences: Sequence[Sequence[int]]) -> None:
        """Count the tokens of these sequences, each by itself."""
        rows: list[Sequence[int]] = []
        for ids in sorted(sequences, key=len) if self._counts else ():
            if (len(rows) + 1) * _padded(len(ids)) > _AT_ONCE:
                self._count(rows)
                rows = []
            rows.append(ids)
        if rows:
            self._count(rows)

    def _count(self, rows: list[Sequence[int]]) -> None:
        width, seen = _padded(len(rows[-1])), list[Routing]()
        tokens = mx.array([[*ids, *[0] * (width - len(ids))] for ids in rows])
        real = mx.arange(width) < mx.array([len(ids) for ids in rows])[:, None]  # [B, L]
        # Behind a causal mask the padding at the end changes nothing before it.
        run_blocks(self._network.layers, self._network.model.embed_tokens(tokens), seen)
        for layer, routing in enumerate(seen):
            counted = (routing.chosen & real.reshape(-1, 1)).sum(axis=0)
            before = mx.array(self._counts[layer])
            self._counts[layer] = (before + counted).tolist()  # type: ignore[assignment]  # a scalar, to mypy
        self.tokens += sum(map(len, rows))
        mx.clear_cache()

    def report(self) -> dict[str, object] | None:
        """The load as evaluate.py stores it; None without experts or texts.

        ``share``: percent of the layer's visits, an expert each; ``max_over_mean`` and ``dead``
        (experts with less than a hundredth of an even share): one number a layer.
        """
        if not self.tokens or not self._counts:
            return None
        shares = [[count / sum(layer) for count in layer] for layer in self._counts]
        return {
            "tokens": self.tokens,
            "share": [[round(100 * share, 3) for share in layer] for layer in shares],
            "max_over_mean": [round(max(layer) * len(layer), 3) for layer in shares],
            "dead": [sum(share * len(layer) < _DEAD for share in layer) for layer in shares],
        }


def _padded(length: int) -> int:
    return -(-length // _WIDTHS) * _WIDTHS
