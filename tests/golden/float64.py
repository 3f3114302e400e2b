"""Qwen3 written out in float64 with NumPy: what make_long.py measures transformers against.

Nothing of it is shared with the package or with transformers: rotations are computed from the
formulas of arXiv 2309.00071 (§3.2, NTK-by-parts) and 2104.09864, for any positions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logits(
    weights: dict[str, Array], config: dict[str, Any], tokens: Array, positions: Array
) -> Array:
    """Logits ``[L, V]`` of ``tokens [L]`` standing at ``positions [L]``, ascending."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p, eps = f"model.layers.{i}", config["rms_norm_eps"]
        h = norm(x, w[f"{p}.input_layernorm.weight"], eps)
        x = x + attention(h, w, f"{p}.self_attn", config, positions)
        h = norm(x, w[f"{p}.post_attention_layernorm.weight"], eps)
        x = x + (experts if f"{p}.mlp.gate.weight" in w else swiglu)(h, w, f"{p}.mlp", config)
    x = norm(x, w["model.norm.weight"], config["rms_norm_eps"])
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def norm(x: Array, weight: Array, eps: float) -> Array:
    """Root-mean-square norm over the last axis."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def attention(h: Array, w: dict[str, Array], p: str, config: dict[str, Any], at: Array) -> Array:
    """Causal grouped-query attention of ``h [L, C]``."""
    dim, heads = config["head_dim"], config["num_attention_heads"]
    shared = heads // config["num_key_value_heads"]
    q, k, v = (
        (h @ w[f"{p}.{n}_proj.weight"].T).reshape(len(h), -1, dim).swapaxes(0, 1) for n in "qkv"
    )
    q = rotate(norm(q, w[f"{p}.q_norm.weight"], config["rms_norm_eps"]), config, at)
    k = rotate(norm(k, w[f"{p}.k_norm.weight"], config["rms_norm_eps"]), config, at)
    k, v = k.repeat(shared, axis=0), v.repeat(shared, axis=0)
    scores = q @ k.swapaxes(1, 2) / math.sqrt(dim)
    scores[:, at[:, None] < at[None, :]] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    return mixed.swapaxes(0, 1).reshape(len(h), -1) @ w[f"{p}.o_proj.weight"].T


def rotate(x: Array, config: dict[str, Any], at: Array) -> Array:
    """Turn the pairs (i, i + D/2) of ``x [H, L, D]`` by position times speed."""
    rope, dim = config["rope_parameters"], config["head_dim"]
    theta, length = rope["rope_theta"], rope["original_max_position_embeddings"]
    pair = np.arange(dim // 2)
    speed = theta ** (-2.0 * pair / dim)

    def where(turns: float) -> float:
        return dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(where(32)), 0), min(math.ceil(where(1)), dim - 1)
    blend = np.clip((pair - low) / (high - low), 0, 1)
    angle = at[:, None] * (blend * speed / rope["factor"] + (1 - blend) * speed)
    scale = 0.1 * math.log(rope["factor"]) + 1
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def swiglu(h: Array, w: dict[str, Array], p: str, _: dict[str, Any]) -> Array:
    """``down(silu(gate(h)) · up(h))``."""
    gate, up = (h @ w[f"{p}.{n}_proj.weight"].T for n in ("gate", "up"))
    return (gate / (1 + np.exp(-gate)) * up) @ w[f"{p}.down_proj.weight"].T


def experts(h: Array, w: dict[str, Array], p: str, config: dict[str, Any]) -> Array:
    """The chosen experts of each token, weighted by their share of the router's softmax."""
    router = h @ w[f"{p}.gate.weight"].T
    share = np.exp(router - router.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    out = np.zeros_like(h)
    for row, token in enumerate(h):
        chosen = np.argsort(-share[row])[: config["num_experts_per_tok"]]
        total = share[row, chosen].sum() if config["norm_topk_prob"] else 1.0
        for e in chosen:
            mixed = swiglu(token[None], w, f"{p}.experts.{e}", config)[0]
            out[row] += share[row, e] / total * mixed
    return out
