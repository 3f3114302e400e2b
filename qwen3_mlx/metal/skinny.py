"""A few rows through matrices on matrix units: 2 to 16 tokens; the weights are read once.

The rows are the last tokens of several sequences, or new tokens of one. Each expert is read once,
however many rows chose it. Activations are rounded to bfloat16, also after a norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal import gate_up as vector
from qwen3_mlx.metal import matvec as vector_matvec
from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.launch import SIMD, Constant, Launch, run
from qwen3_mlx.metal.matrix import Matrix, float_bits, unsupported_matrices
from qwen3_mlx.metal.route import Groups, grouped

MOST_ROWS = 16
"""Rows of two tiles of a matrix unit."""

reference = vector_matvec.reference
gate_up_reference = vector.reference


@dataclass(frozen=True, slots=True)
class _Kind:
    """The kind of product: its constants and optional inputs."""

    gated: bool = False
    summed: bool = False
    norm: mx.array | None = None
    eps: float = 0.0
    residual: mx.array | None = None
    groups: Groups | None = None


def unsupported_reason(dtype: mx.Dtype, matrices: Sequence[Matrix]) -> str | None:
    """Why the kernel can't multiply these matrices with rows of `dtype`, or None."""
    if dtype != mx.bfloat16:
        return f"activations are {dtype}: expected bfloat16"
    if reason := unsupported_matrices(list(matrices), dtype):
        return reason
    for matrix in matrices:
        if matrix.columns % (chunk := 512 // (matrix.bits or 16)):
            return f"rows of {matrix.columns} weights: expected a multiple of {chunk}"
        if matrix.rows % 2:
            return f"{matrix.rows} rows: expected an even number"
    return None


def matvec(
    x: mx.array,
    matrices: Sequence[Matrix],
    norm: mx.array | None = None,
    eps: float = 0.0,
    residual: mx.array | None = None,
) -> mx.array:
    """As `matvec.matvec`, for R rows: ``[R, 1, K]`` to ``[R, 1, N0 + N1 + N2]``."""
    shape = (*x.shape[:-1], sum(matrix.rows for matrix in matrices))
    return _run(x, matrices, shape, _Kind(norm=norm, eps=eps, residual=residual))


def gate_up(
    x: mx.array, gate: Matrix, up: Matrix, *, norm: mx.array | None = None, eps: float = 0.0
) -> mx.array:
    """As `gate_up.gate_up` of a dense network, for R rows: ``[R, 1, K]`` to ``[R, 1, F]``."""
    return _run(x, [gate, up], (*x.shape[:-1], gate.rows), _Kind(gated=True, norm=norm, eps=eps))


def hidden(
    x: mx.array,
    logits: mx.array,
    gate: Matrix,
    up: Matrix,
    top_k: int,
    normalise: bool,
    norm: mx.array | None = None,
    eps: float = 0.0,
) -> tuple[mx.array, Groups]:
    """The experts' weighted hidden layers ``[R, top_k, F]``, from ``logits [R, 1, E]``."""
    groups = grouped(logits, top_k, normalise)
    shape = (x.shape[0], top_k, gate.rows)
    return _run(x, [gate, up], shape, _Kind(True, False, norm, eps, None, groups)), groups


def down(h: mx.array, matrix: Matrix, groups: Groups, residual: mx.array | None = None) -> mx.array:
    """``Σ_slot W_e h`` of ``h [R, top_k, F]``, plus the residual, ``[R, 1, C]``."""
    shape = (h.shape[0], 1, matrix.rows)
    return _run(h, [matrix], shape, _Kind(summed=True, residual=residual, groups=groups))


def _run(x: mx.array, matrices: Sequence[Matrix], shape: tuple[int, ...], kind: _Kind) -> mx.array:
    first, groups, rows = matrices[0], kind.groups, x.shape[0]
    sizes = [matrix.rows for matrix in matrices] + [0] * (3 - len(matrices))
    columns = sizes[0] if kind.gated else sum(sizes)
    cut = tuning.skinny(columns, first.columns, rows, kind.gated, groups is not None)
    constants: dict[str, Constant] = {"K": first.columns, "N0": sizes[0], "N1": sizes[1]}
    constants |= {"N2": sizes[2], "GATED": kind.gated, "SUMMED": kind.summed}
    constants |= {"ROUTED": groups is not None, "NORM": kind.norm is not None}
    eps = kind.eps if kind.norm is not None else 0.0
    constants |= {"EPS": float_bits(eps), "RESIDUAL": kind.residual is not None}
    constants |= {"TOPK": groups.top_k if groups else 1, "HALVES": 1 if rows <= 8 else 2}
    constants |= {"TILES": cut.tiles, "SIMDS": cut.simds, "AHEAD": cut.ahead}
    inputs = {"x": x, "norm": x if kind.norm is None else kind.norm}
    inputs["residual"] = x if kind.residual is None else kind.residual
    for index in range(3):
        inputs |= matrices[min(index, len(matrices) - 1)].inputs("", str(index), x)
    inputs["groups"] = groups.experts if groups else x
    inputs["members"] = groups.members if groups else x
    inputs["weights"] = groups.weights if groups and not kind.summed else x
    wide = cut.tiles * (8 if kind.gated else 16)
    most = groups.most if groups and not kind.summed else 1
    (y,) = run(
        Launch(
            "skinny",
            inputs,
            {"y": (shape, x.dtype)},
            first.constants(x.dtype) | constants,
            (-(-columns // wide) * cut.simds * SIMD, most, 1),
            (cut.simds * SIMD, 1, 1),
        )
    )
    return y
