"""Many tokens through packed experts: sorts rows by expert, multiplies on matrix units."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Constant, Launch, run
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices

ROWS = 48
"""Rows of one expert that a threadgroup computes."""

SIMDS, TILES = 4, 8
"""Simdgroups of a threadgroup, and tiles of 8 columns that each simdgroup computes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The (token, expert) pairs, P = T · top_k, sorted by expert."""

    order: mx.array
    """``[P]`` uint32: the pair at each sorted position, as token · top_k + slot."""
    ends: mx.array
    """``[E]`` int32: the position at which each expert's pairs end."""
    tiles: mx.array
    """``[E]`` int32: the index at which each expert's tiles of `ROWS` pairs end."""
    top_k: int


def plan(experts: mx.array, count: int) -> Plan:
    """Sort ``experts [T, top_k]`` uint32, indices below `count`; the plan's arrays are lazy."""
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
    """`gate_up` unsorted, ``[T, top_k, F]``, and `down` of it, ``[T, top_k, C]``, in float32.

    rounded: the dtype to which weights and hidden layers are rounded, as for matrix units.
    """
    gate, up, down = (_rounded(matrix.dequantized(), rounded)[experts] for matrix in matrices)
    x = x.astype(mx.float32)[:, None, :, None]
    g, u = gate @ x, up @ x
    h = g * mx.sigmoid(g) * u * weights[..., None, None]
    return h[..., 0], (down @ _rounded(h, rounded))[..., 0]


def _rounded(x: mx.array, dtype: mx.Dtype) -> mx.array:
    return x.astype(dtype).astype(mx.float32)


def unsupported_reason(dtype: mx.Dtype, gate: Matrix, up: Matrix, down: Matrix) -> str | None:
    """Why the kernel can't multiply these matrices with rows of `dtype`, or None."""
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
    """The hidden layers ``[P, F]`` of ``x [T, C]``, sorted by expert, times the weights.

    weights: ``[T, top_k]`` float32, applied here because the second matrix is linear.
    """
    inputs = {"x": x, "weights": weights} | gate.inputs("gate_", "", x) | up.inputs("up_", "", x)
    return _run(inputs, gate, x, plan, (plan.order.size, gate.rows), True)


def down(h: mx.array, matrix: Matrix, plan: Plan) -> mx.array:
    """``h [P, F]``, sorted by expert, to ``[T, top_k, C]`` in the order of the tokens."""
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
    most = (rows + min(count, rows) * (ROWS - 1)) // ROWS  # tiles, for any distribution of rows
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
