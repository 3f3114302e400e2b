"""Rotary embedding of new tokens: cosines and sines of their positions, computed once a step."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Launch, run


def reference(table: mx.array, position: int) -> mx.array:
    """`rotation` of one `position` in float32: ``[2, D/2]``."""
    angle = position * table[:-1]
    return mx.stack([mx.cos(angle), mx.sin(angle)]) * table[-1]


def rotation(table: mx.array, counts: mx.array, rows: mx.array | None = None) -> mx.array:
    """``[2, D/2]`` float32: the cosines, then the sines, by which `attend` rotates a token's heads.

    table ``[D/2 + 1]`` float32: radians per position, then the factor of YaRN (1 without it).
    counts ``[2]`` int32: their sum is the position; it stays on the device, so that a step compiled
    once serves all positions. With `rows` and counts ``[S, 2]`` as in `Pasts`: ``[R, 2, D/2]``.
    """
    half = table.size - 1
    count = 1 if rows is None else len(rows)
    (turns,) = run(
        Launch(
            "rotation",
            {"table": table, "counts": counts, "rows": counts if rows is None else rows},
            {"turns": ((2, half) if rows is None else (count, 2, half), mx.float32)},
            {"HALF": half, "ROWED": rows is not None},
            (count * SIMD, 1, 1),
            (SIMD, 1, 1),
        )
    )
    return turns
