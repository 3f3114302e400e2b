"""Matrix times vector for one token, including the norm before it and the residual after it.

Up to three matrices share one launch (queries, keys and values): a simdgroup selects its matrix by
its row, so the matrices are not concatenated in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.launch import Launch, run
from qwen3_mlx.metal.matrix import (
    TILE,
    Matrix,
    float_bits,
    launch_grid,
    rows_per_simdgroup,
    staging,
    unsupported_matrices,
)


def reference(
    x: mx.array,
    matrices: Sequence[Matrix],
    norm: mx.array | None = None,
    eps: float = 1e-6,
    residual: mx.array | None = None,
) -> mx.array:
    """`matvec` in float32, of any number of tokens: ``[..., K]`` to ``[..., N0 + N1 + N2]``."""
    x = x.astype(mx.float32)
    if norm is not None:
        x = x * mx.rsqrt((x * x).mean(-1, keepdims=True) + eps) * norm.astype(mx.float32)
    y = mx.concatenate([x @ m.dequantized().T for m in matrices], axis=-1)
    return y if residual is None else y + residual.astype(mx.float32)


def unsupported_reason(x: mx.array, matrices: Sequence[Matrix]) -> str | None:
    """Why `matvec` can't run on these inputs, or None."""
    if x.size != x.shape[-1]:
        return f"{x.size // x.shape[-1]} tokens: expected 1"
    if not 1 <= len(matrices) <= 3:
        return f"{len(matrices)} matrices: expected 1 to 3"
    return unsupported_matrices(list(matrices), x.dtype)


def matvec(
    x: mx.array,
    matrices: Sequence[Matrix],
    norm: mx.array | None = None,
    eps: float = 0.0,
    residual: mx.array | None = None,
) -> mx.array:
    """``W · rms_norm(x) + residual`` for one token: ``[..., K]`` to ``[..., N0 + N1 + N2]``.

    norm: the RMS norm's weight ``[K]``; None omits the norm.
    """
    rows = [m.rows for m in matrices] + [0] * (3 - len(matrices))
    columns = matrices[0].columns
    each, simds = tuning.matvec(sum(rows), columns)
    each = rows_per_simdgroup(each, *rows)
    grid, threadgroup = launch_grid(sum(rows), each, simds)
    padded = [*matrices, matrices[0], matrices[0]][:3]
    inputs = {"x": x, "norm": x if norm is None else norm}
    inputs["residual"] = x if residual is None else residual
    staged = tuning.staged()
    tile = staging(min(TILE, columns), each, matrices[0], x.dtype) if staged else {}
    for index, matrix in enumerate(padded):
        inputs |= matrix.inputs("", str(index), x)
    (y,) = run(
        Launch(
            "matvec",
            inputs,
            {"y": ((*x.shape[:-1], sum(rows)), x.dtype)},
            matrices[0].constants(x.dtype)
            | {"K": columns, "N0": rows[0], "N1": rows[1], "N2": rows[2]}
            | {"NORM": norm is not None, "EPS": float_bits(eps), "RESIDUAL": residual is not None}
            | {"ROWS": each, "SIMDS": simds}
            | tile,
            grid,
            threadgroup,
            staged,
        )
    )
    return y
