"""The only comparer of the test suite: it decides whether an array equals its reference.

It looks at shapes, dtypes and finiteness first, then at the normalised mean squared error, and
passes only if that error is within the bound, so NaN, a broken reference or nothing at all to
compare fail. Bounds come from rounding, not from taste: about four times what one rounding to
the dtype costs (bf16 2.8e-6, f16 4e-8) and what a long float32 matrix product costs (3.5e-12).
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Array = mx.array | NDArray[np.floating]

BOUNDS = {"float32": 1e-11, "float16": 2e-7, "bfloat16": 1e-5}


def nmse(got: Array, want: Array) -> float:
    """Return sum((got - want)^2) / sum(want^2), computed in float64.

    Not a number where either holds NaN or where `want` is all zero: compare it as `err <= bound`,
    never as `err > bound`.
    """
    g, w = _float64(got), _float64(want)
    with np.errstate(all="ignore"):
        return float(np.sum((g - w) ** 2) / np.sum(w**2))


def assert_close(got: Array, want: Array, bound: float | None = None) -> None:
    """Fail unless `got` equals the reference `want` up to rounding.

    got:   float32, float16 or bfloat16, from MLX or NumPy; its dtype chooses the bound.
    want:  the same shape, in float32, float64 or the dtype of `got`.
    bound: replaces the dtype's bound; the call says in a comment what makes that necessary.

    Infinities must agree in place and sign and are then left out of the error. NaN never passes.
    """
    g, w = _float64(got), _float64(want)
    got_dtype, want_dtype = _dtype(got), _dtype(want)
    assert g.shape == w.shape, f"shape: got {g.shape}, expected {w.shape}"
    assert got_dtype in BOUNDS, f"dtype: got {got_dtype}, expected one of {', '.join(BOUNDS)}"
    assert want_dtype in ("float32", "float64", got_dtype), (
        f"dtype of the reference: got {want_dtype}, expected float32, float64 or {got_dtype}"
    )
    bound = BOUNDS[got_dtype] if bound is None else bound
    finite = _finite(g, w)
    err = nmse(g[finite], w[finite])
    if not err <= bound:
        raise AssertionError(f"nmse: got {err:.3g}, expected <= {bound:.3g}; {_worst(g, w)}")


def _float64(x: Array) -> NDArray[np.float64]:
    if isinstance(x, mx.array):  # NumPy has no bfloat16
        x = np.array(x.astype(mx.float32) if x.dtype == mx.bfloat16 else x)
    return np.asarray(x, dtype=np.float64)


def _dtype(x: Array) -> str:
    return str(x.dtype).removeprefix("mlx.core.")


def _finite(g: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where both are finite; fails if there is NaN, or an infinity that only one of them has."""
    assert not np.isnan(w).any(), f"the reference holds NaN at {_first(np.isnan(w))}"
    assert not np.isnan(g).any(), f"NaN at {_first(np.isnan(g))}"
    finite = np.isfinite(w)
    wrong = (finite != np.isfinite(g)) | (~finite & (g != w))
    assert not wrong.any(), f"an infinity differs in place or sign at {_first(wrong)}"
    return finite


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _worst(g: NDArray[np.float64], w: NDArray[np.float64]) -> str:
    if not g.size:
        return "there are no elements to compare"
    with np.errstate(invalid="ignore"):
        gap = np.abs(g - w)
    at = np.unravel_index(int(np.nanargmax(np.where(np.isfinite(w), gap, -1.0))), g.shape)
    place = tuple(int(i) for i in at)
    return f"the largest difference is at {place}: got {g[at]:.8g}, expected {w[at]:.8g}"
