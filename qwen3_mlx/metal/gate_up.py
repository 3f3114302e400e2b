"""``silu(gate x) · up x``, of a dense network or of each token's experts, in one launch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.launch import Constant, Launch, run
from qwen3_mlx.metal.matrix import (
    TILE,
    Matrix,
    float_bits,
    launch_grid,
    rows_per_simdgroup,
    staging,
    unsupported_matrices,
)

Outputs = dict[str, tuple[Sequence[int], mx.Dtype]]

MAX_TOKENS = 8
"""Tokens of one launch: with more, pairs share experts so often that sorting them is faster."""


def reference(
    x: mx.array,
    gate: Matrix,
    up: Matrix,
    experts: mx.array | None = None,
    weights: mx.array | None = None,
    norm: mx.array | None = None,
    eps: float = 1e-6,
) -> mx.array:
    """`gate_up` in float32; the shapes are the same."""
    x = x.astype(mx.float32)
    if norm is not None:
        squares = _sums(x * x)[..., None] / x.shape[-1]
        x = x * mx.rsqrt(squares + eps) * norm.astype(mx.float32)
    g, u = gate.dequantized(), up.dequantized()
    if experts is None or weights is None:
        g, u = x @ g.T, x @ u.T
        return g * mx.sigmoid(g) * u
    x = x.reshape(-1, 1, 1, x.shape[-1])
    g, u = _sums(g[experts] * x), _sums(u[experts] * x)  # [T, top_k, F]
    return g * mx.sigmoid(g) * u * weights[..., None]


def _sums(products: mx.array) -> mx.array:
    """Row sums in two steps: on the CPU MLX adds one by one, 6,144 elements to 1.5e-12 only."""
    each = math.gcd(products.shape[-1], 64)
    return products.reshape(*products.shape[:-1], -1, each).sum(-1).sum(-1)


def unsupported_reason(
    x: mx.array, gate: Matrix, up: Matrix, experts: mx.array | None
) -> str | None:
    """Why `gate_up` can't run on these inputs, or None."""
    tokens = x.size // x.shape[-1]
    limit = 1 if experts is None else MAX_TOKENS
    if tokens > limit:
        return f"{tokens} tokens: expected at most {limit}"
    if experts is not None and experts.dtype != mx.uint32:
        return f"experts are {experts.dtype}: expected uint32"
    return unsupported_matrices([gate, up], x.dtype)


def gate_up(
    x: mx.array,
    gate: Matrix,
    up: Matrix,
    experts: mx.array | None = None,
    weights: mx.array | None = None,
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> mx.array:
    """The hidden layer of a SwiGLU network, after an optional RMS norm, in the dtype of `x`.

    Without `experts`: ``[..., K]`` of one token to ``[..., F]``. With ``experts [T, top_k]``
    uint32 and ``weights [T, top_k]`` float32: ``[..., K]`` of T tokens to ``[T, top_k, F]``, times
    the weights (the second matrix is linear, so they may be applied before it).
    """
    routed = experts is not None and weights is not None
    top_k = experts.shape[-1] if experts is not None else 1
    pairs = experts.size if experts is not None else 1
    shape = (pairs // top_k, top_k, gate.rows) if routed else (*x.shape[:-1], gate.rows)
    inputs = {"x": x, "norm": x if norm is None else norm}
    inputs["experts"] = x if experts is None else experts
    inputs["weights"] = x if weights is None else weights
    constants: dict[str, Constant] = {"TOPK": top_k, "ROUTED": routed}
    constants |= {"NORM": norm is not None, "EPS": float_bits(eps)}
    outputs: Outputs = {"h": (shape, x.dtype)}
    (h,) = run(_launch(x, (gate, up), inputs, outputs, constants, pairs))
    return h


def route_and_gate_up(
    x: mx.array,
    gate: Matrix,
    up: Matrix,
    logits: mx.array,
    top_k: int,
    normalise: bool,
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> tuple[mx.array, mx.array]:
    """`route` and the routed `gate_up` in one launch, from the router's ``logits [..., E]``.

    Returns ``[T, top_k, F]`` and the experts ``[T, top_k]`` uint32; ties as in `route`.
    """
    count = logits.shape[-1]
    tokens = logits.size // count
    inputs = {"x": x, "norm": x if norm is None else norm, "logits": logits}
    outputs: Outputs = {"h": ((tokens, top_k, gate.rows), x.dtype)}
    outputs["chosen"] = ((tokens, top_k), mx.uint32)
    constants: dict[str, Constant] = {"TOPK": top_k, "E": count, "NORMALISE": normalise}
    constants |= {"NORM": norm is not None, "EPS": float_bits(eps)}
    h, experts = run(_launch(x, (gate, up), inputs, outputs, constants, tokens * top_k))
    return h, experts


def _launch(
    x: mx.array,
    matrices: tuple[Matrix, Matrix],
    inputs: dict[str, mx.array],
    outputs: Outputs,
    constants: dict[str, Constant],
    pairs: int,
) -> Launch:
    gate, up = matrices
    each, simds = tuning.gate_up(gate.rows * pairs, gate.columns)
    each = rows_per_simdgroup(each, gate.rows)
    sizes: dict[str, Constant] = {"K": gate.columns, "F": gate.rows, "ROWS": each, "SIMDS": simds}
    staged = "chosen" in outputs or tuning.staged()  # routing needs a barrier anyway
    if staged:
        sizes |= staging(min(TILE, gate.columns), 2 * each, gate, x.dtype)
    return Launch(
        "gate_up",
        inputs | gate.inputs("gate_", "", x) | up.inputs("up_", "", x),
        outputs,
        gate.constants(x.dtype) | sizes | constants,
        *launch_grid(gate.rows, each, simds, pairs),
        staged,
    )
