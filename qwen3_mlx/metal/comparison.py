"""How far a kernel's output may lie from the float32 reference."""

from __future__ import annotations

import mlx.core as mx

BOUNDS = {mx.float32: 1e-11, mx.float16: 2e-7, mx.bfloat16: 1e-5}
"""Bounds of the normalised squared error: four times that of one rounding to the dtype."""


def compare(got: mx.array, want: mx.array, stock: mx.array, roundings: int = 1) -> str | None:
    """Why `got` is farther from the float32 `want` than its dtype and MLX's `stock` allow, or None.

    The second bound is twice stock's error, which counts as at least one rounding, as it may be
    small by luck. Integers must be equal.
    """
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    if got.dtype not in BOUNDS:
        return None if bool(mx.array_equal(got, want).item()) else "other numbers"
    bound = BOUNDS[got.dtype] * roundings
    mine, theirs = error(got, want), error(stock, want)
    most = min(bound, 2 * max(theirs, bound / 4)) if theirs == theirs else bound
    if mine <= most:  # false for NaN
        return None
    return f"squared error {mine:.1e}, expected at most {most:.1e} (MLX's own: {theirs:.1e})"


def error(got: mx.array, want: mx.array) -> float:
    """``Σ (got - want)² / Σ want²`` in float32; 0 if both are zero, NaN if only `want` is."""
    got, want = got.astype(mx.float32), want.astype(mx.float32)
    above, below = mx.square(got - want).sum().item(), mx.square(want).sum().item()
    assert isinstance(above, float) and isinstance(below, float)
    return above / below if below else (0.0 if above == 0 else float("nan"))
