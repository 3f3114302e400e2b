"""``silu(gate x) · up x``, of one network or of each token's experts, in one launch."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.build import Launch, run
from qwen3_mlx.metal.rows import TILE, Matrix, float_bits, rows_each, tile, unsupported

MAX_TOKENS = 8
"""Beyond, pairs share experts so often that sorting them pays."""


def reference(
    x: mx.array,
    gate: Matrix,
    up: Matrix,
    experts: mx.array | None = None,
    weights: mx.array | None = None,
    norm: mx.array | None = None,
    eps: float = 1e-6,
) -> mx.array:
    """``gate_up`` in float32."""
    x = x.astype(mx.float32)
    if norm is not None:
        x = x * mx.rsqrt((x * x).mean(-1, keepdims=True) + eps) * norm.astype(mx.float32)
    g, u = gate.dequantized(), up.dequantized()
    if experts is None or weights is None:
        g, u = x @ g.T, x @ u.T
        return g * mx.sigmoid(g) * u
    x = x.reshape(-1, 1, x.shape[-1], 1)  # [T, 1, K, 1]
    g, u = (g[experts] @ x)[..., 0], (u[experts] @ x)[..., 0]  # [T, top_k, F]
    return g * mx.sigmoid(g) * u * weights[..., None]


def supported(x: mx.array, gate: Matrix, up: Matrix, experts: mx.array | None) -> str | None:
    """Why `gate_up` can't take these, or None."""
    tokens = x.size // x.shape[-1]
    limit = 1 if experts is None else MAX_TOKENS
    if tokens > limit:
        return f"{tokens} tokens: expected at most {limit}"
    if experts is not None and experts.dtype != mx.uint32:
        return f"experts are {experts.dtype}: expected uint32"
    return unsupported([gate, up], x.dtype)


def gate_up(
    x: mx.array,
    gate: Matrix,
    up: Matrix,
    experts: mx.array | None = None,
    weights: mx.array | None = None,
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> mx.array:
    """The hidden layer of SwiGLU networks, after an optional norm, in the dtype of `x`.

    Without `experts`: ``[..., K]`` of one token to ``[..., F]``. With ``experts [T, top_k]``
    uint32 and ``weights [T, top_k]`` float32: ``[..., K]`` of T tokens to ``[T, top_k, F]``, the
    weights multiplied in (the second matrix is linear, so they may come before it).
    """
    routed = experts is not None and weights is not None
    top_k = experts.shape[-1] if experts is not None else 1
    pairs = experts.size if experts is not None else 1
    shape = (pairs // top_k, top_k, gate.rows) if routed else (*x.shape[:-1], gate.rows)
    each, simds = tuning.gate_up(gate.rows * pairs, gate.columns)
    each = rows_each(each, gate.rows)
    grid, threadgroup = tile(gate.rows, each, simds, pairs)
    inputs = {"x": x, "norm": x if norm is None else norm}
    inputs["experts"] = x if experts is None else experts
    inputs["weights"] = x if weights is None else weights
    inputs |= gate.inputs("gate_", "", x) | up.inputs("up_", "", x)
    (h,) = run(
        Launch(
            "gate_up",
            inputs,
            {"h": (shape, x.dtype)},
            gate.constants(x.dtype)
            | {"K": gate.columns, "F": gate.rows, "TOPK": top_k}
            | {
                "ROUTED": routed,
                "NORM": norm is not None,
                "EPS": float_bits(eps),
                "ROWS": each,
                "SIMDS": simds,
            }
            | {"TILE": min(TILE, gate.columns)},
            grid,
            threadgroup,
        )
    )
    return h
