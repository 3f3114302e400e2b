"""Rotary embedding of new tokens: cosines and sines of their positions, computed once a step."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Launch, run


def reference(table: mx.array, position: int) -> mx.array:
    """`rotation` of one `position` in float32: ``[2, D/2]``."""
    angle = position * table[:-1]
    return mx.stack([mx.cos(angle), mx.sin(angle)]) * table[-1]


def rotation(table: mx.array, counts: mx.array) -> mx.array:
    """``[2, D/2]`` float32: the cosines, then the sines, by which `attend` rotates a token's heads.

    table ``[D/2 + 1]`` float32: radians per position, then the factor of YaRN (1 without it).
    counts ``[2]`` int32: their sum is the position; it stays on the device, so that a step compiled
    once serves all positions.
    """
    turns: mx.array = _run(table, counts, counts, {"turns": ((2, table.size - 1), mx.float32)})[0]
    return turns


def rotations(table: mx.array, counts: mx.array, rows: mx.array) -> tuple[mx.array, mx.array]:
    """`rotation` of rows: ``[R, 2, D/2]``, and the counts ``[S, 2]`` of a step that follows.

    counts ``[S, 2]``, rows ``[R, 2]`` int32 as in `Pasts`; the rows of a sequence lie together. An
    array that the host makes anew for each step costs MLX's CUDA backend up to 0.1 ms.
    """
    turns = ((len(rows), 2, table.size - 1), mx.float32)
    made = _run(table, counts, rows, {"turns": turns, "following": (counts.shape, mx.int32)})
    return made[0], made[1]


def _run(
    table: mx.array,
    counts: mx.array,
    rows: mx.array,
    outputs: dict[str, tuple[tuple[int, ...], mx.Dtype]],
) -> list[mx.array]:
    rowed = rows is not counts
    count = len(rows) if rowed else 1
    return run(
        Launch(
            "rotation",
            {"table": table, "counts": counts, "rows": rows},
            outputs,
            {"HALF": table.size - 1, "ROWED": rowed},
            (count * SIMD, 1, 1),
            (SIMD, 1, 1),
        )
    )
