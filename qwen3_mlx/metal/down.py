"""The experts' second matrix: sums all experts of a token and the residual, in one launch."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.gate_up import MAX_TOKENS
from qwen3_mlx.metal.launch import Launch, run
from qwen3_mlx.metal.matrix import (
    Matrix,
    launch_grid,
    rows_per_simdgroup,
    staging,
    unsupported_matrices,
)

TILE = 6144
"""Elements of h in threadgroup memory at a time: 24 of the 32 KiB that Metal allows. The eight
hidden layers of 30B-A3B fit; its rows are too few to hide the latency of a second staging."""

IN_FLIGHT = 8
"""As `matrix.IN_FLIGHT`, here all pieces of a lane: on an H100 two take 9.5 µs and six 6.8 µs."""


def reference(
    h: mx.array, down: Matrix, experts: mx.array, residual: mx.array | None = None
) -> mx.array:
    """`down` in float32, always ``[T, C]``."""
    y = (down.dequantized()[experts] @ h.astype(mx.float32)[..., None])[..., 0].sum(-2)
    return y if residual is None else y + residual.astype(mx.float32).reshape(y.shape)


def unsupported_reason(h: mx.array, down: Matrix, experts: mx.array) -> str | None:
    """Why `down` can't run on these inputs, or None."""
    if len(experts) > MAX_TOKENS:
        return f"{len(experts)} tokens: expected at most {MAX_TOKENS}"
    if experts.dtype != mx.uint32:
        return f"experts are {experts.dtype}: expected uint32"
    return unsupported_matrices([down], h.dtype)


def down(
    h: mx.array, matrix: Matrix, experts: mx.array, residual: mx.array | None = None
) -> mx.array:
    """``Σ_slot W_e h``: ``h [T, top_k, F]`` and ``experts [T, top_k]`` uint32 to ``[T, C]``.

    A `residual` of T · C elements is added; the output then has its shape.
    """
    tokens, top_k = experts.shape
    shape = (tokens, matrix.rows) if residual is None else residual.shape
    each, simds = tuning.down(matrix.rows * tokens, matrix.columns * top_k)
    each, staged = rows_per_simdgroup(each, matrix.rows), tuning.staged()
    size = min(TILE, top_k * matrix.columns)
    tile = staging(size, each, matrix, h.dtype, IN_FLIGHT) if staged else {}
    grid, threadgroup = launch_grid(matrix.rows, each, simds, tokens)
    inputs = {"h": h, "experts": experts, "residual": h if residual is None else residual}
    (y,) = run(
        Launch(
            "down",
            inputs | matrix.inputs("down_", "", h),
            {"y": (shape, h.dtype)},
            matrix.constants(h.dtype)
            | {"F": matrix.columns, "N": matrix.rows, "TOPK": top_k}
            | {"RESIDUAL": residual is not None, "ROWS": each, "SIMDS": simds}
            | tile,
            grid,
            threadgroup,
            staged,
        )
    )
    return y
