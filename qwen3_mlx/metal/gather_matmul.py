"""Many tokens through packed experts: rows sorted by expert, multiplied on matrix units."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Constant, Launch, run
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices

ROWS = 48
"""Rows of one expert that a threadgroup takes."""

SIMDS, TILES = 4, 8
"""Simdgroups of a threadgroup, and tiles of 8 columns that each makes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The (token, expert) pairs, P = T · top_k, in the order of their experts."""

    order: mx.array
    """``[P]`` uint32: which pair comes i-th, token · top_k + slot."""
    ends: mx.array
    """``[E]`` int32: where each expert's pairs end in that order."""
    tiles: mx.array
    """``[E]`` int32: where its tiles of `ROWS` pairs end, counted likewise."""
    top_k: int


def plan(experts: mx.array, count: int) -> Plan:
    """Sort ``experts [T, top_k]`` uint32, of `count` experts; lazy, nothing is computed here."""
    pairs = experts.flatten()
    rows = (pairs == mx.arange(count, dtype=mx.uint32)[:, None]).sum(axis=1)
    tiles = (rows + (ROWS - 1)) // ROWS
    return Plan(mx.argsort(pairs), mx.cumsum(rows), mx.cumsum(tiles), experts.shape[-1])


def reference(
    x: mx.array,
    matrices: tuple[Matrix, Matrix, Matrix],
    experts: mx.array,
    weights: mx.array,
    rounded: mx.Dtype = mx.float32,
) -> tuple[mx.array, mx.array]:
    """`gate_up` in the pairs' own order, ``[T, top_k, F]``, and `down` of it, in float32.

    rounded: the dtype that weights and hidden layers are rounded to, as matrix units take them.
    """
    gate, up, down = (_rounded(matrix.dequantized(), rounded)[experts] for matrix in matrices)
    x = x.astype(mx.float32)[:, None, :, None]
    g, u = gate @ x, up @ x
    h = g * mx.sigmoid(g) * u * weights[..., None, None]
    return h[..., 0], (down @ _rounded(h, rounded))[..., 0]


def _rounded(x: mx.array, dtype: mx.Dtype) -> mx.array:
    return x.astype(dtype).astype(mx.float32)


def unsupported_reason(dtype: mx.Dtype, gate: Matrix, up: Matrix, down: Matrix) -> str | None:
    """Why these matrices can't meet rows of `dtype` here, or None."""
    if dtype not in (mx.float16, mx.bfloat16):
        return f"activations are {dtype}: expected 16 bits"
    if reason := unsupported_matrices([gate, up], dtype) or unsupported_matrices([down], dtype):
        return reason
    for matrix in (gate, up, down):
        if not matrix.bits:
            return "the experts are not packed"
        if matrix.columns % (chunk := 512 // matrix.bits):
            return f"rows of {matrix.columns} weights: expected a multiple of {chunk}"
        if matrix.rows % 8:
            return f"{matrix.rows} rows: expected a multiple of 8"
    return None


def gate_up(x: mx.array, gate: Matrix, up: Matrix, weights: mx.array, plan: Plan) -> mx.array:
    """The hidden layers ``[P, F]``, sorted and weighted, of ``x [T, C]``.

    weights: ``[T, top_k]`` float32, multiplied in (the second matrix is linear).
    """
    inputs = {"x": x, "weights": weights} | gate.inputs("gate_", "", x) | up.inputs("up_", "", x)
    return _run(inputs, gate, x, plan, (plan.order.size, gate.rows), True)


def down(h: mx.array, matrix: Matrix, plan: Plan) -> mx.array:
    """``h [P, F]``, sorted, through `matrix` and back in the tokens' order: ``[T, top_k, C]``."""
    inputs = {"x": h, "weights": h} | matrix.inputs("gate_", "", h) | matrix.inputs("up_", "", h)
    shape = (plan.order.size // plan.top_k, plan.top_k, matrix.rows)
    return _run(inputs, matrix, h, plan, shape, False)


def _run(
    inputs: dict[str, mx.array],
    matrix: Matrix,
    x: mx.array,
    plan: Plan,
    shape: tuple[int, ...],
    gated: bool,
) -> mx.array:
    count, rows = matrix.weight.shape[0], plan.order.size
    constants: dict[str, Constant] = {"K": matrix.columns, "N": matrix.rows, "E": count}
    constants |= {"TOPK": plan.top_k, "GATED": gated}
    constants |= {"ROWS": ROWS, "SIMDS": SIMDS, "TILES": TILES}
    columns = SIMDS * TILES * 8 // (2 if gated else 1)
    most = (rows + min(count, rows) * (ROWS - 1)) // ROWS  # tiles, however the rows are spread
    threads = SIMDS * SIMD
    (y,) = run(
        Launch(
            "gather_matmul",
            inputs | {"order": plan.order, "ends": plan.ends, "tiles": plan.tiles},
            {"y": (shape, x.dtype)},
            matrix.constants(x.dtype) | constants,
            (-(-matrix.rows // columns) * threads, most, 1),
            (threads, 1, 1),
        )
    )
    return y
