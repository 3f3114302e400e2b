"""The comparer fails closed: whatever is not provably equal does not pass."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.oracle import BOUNDS, assert_close, nmse

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@pytest.fixture
def want() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)


def rejects(got: object, want: object, message: str, **bound: float) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_close(got, want, **bound)  # type: ignore[arg-type]


def test_nmse_is_the_formula() -> None:
    assert nmse(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 2.0])) == pytest.approx(4 / 9)


def test_nmse_accumulates_in_float64() -> None:
    got = mx.full((1 << 20,), 1.0 + 2.0**-20)
    assert nmse(got, mx.ones((1 << 20,))) == pytest.approx(2.0**-40, rel=1e-9)
    assert nmse(mx.array([1.5e30]), mx.array([1e30])) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("name", DTYPES)
def test_one_rounding_passes_and_the_next_dtype_down_does_not(name: str, want: np.ndarray) -> None:
    assert_close(mx.array(want).astype(DTYPES[name]), want)
    lower = {"float32": mx.float16, "float16": mx.bfloat16}.get(name)
    if lower is not None:
        rejects(mx.array(want).astype(lower).astype(DTYPES[name]), want, "nmse")


@pytest.mark.parametrize("name", DTYPES)
def test_the_bound_is_the_edge(name: str, want: np.ndarray) -> None:
    zero = np.zeros(10**4, np.float32)
    zero[0] = 1.0  # got and want differ by one exactly representable step
    step = {"float32": 2.0**-18, "float16": 2.0**-11, "bfloat16": 2.0**-8}[name]
    got = zero.copy()
    got[1] = step
    exact = step**2
    cast = mx.array(got).astype(DTYPES[name])
    assert_close(cast, zero, bound=exact)
    rejects(cast, zero, "nmse", bound=exact * 0.999)
    assert exact > BOUNDS[name]
    rejects(cast, zero, "nmse")


def test_numpy_and_mlx_on_either_side(want: np.ndarray) -> None:
    for got in (want, mx.array(want)):
        for ref in (want, want.astype(np.float64), mx.array(want)):
            assert_close(got, ref)


def test_bfloat16_against_bfloat16(want: np.ndarray) -> None:
    assert_close(mx.array(want).astype(mx.bfloat16), mx.array(want).astype(mx.bfloat16))


def test_nan_is_rejected_on_either_side_and_on_both(want: np.ndarray) -> None:
    bad = want.copy()
    bad[3, 4] = np.nan
    rejects(bad, want, r"NaN at \(3, 4\)")
    rejects(want, bad, r"reference holds NaN at \(3, 4\)")
    rejects(bad, bad, "reference holds NaN")
    rejects(mx.array(bad), want, "NaN", bound=float("inf"))


def test_a_nan_bound_passes_nothing(want: np.ndarray) -> None:
    rejects(want, want, "nmse", bound=float("nan"))


def test_infinities_must_agree_in_place_and_sign(want: np.ndarray) -> None:
    up, down = want.copy(), want.copy()
    up[0, 0], down[0, 0] = np.inf, -np.inf
    assert_close(up, up)
    assert_close(mx.array(down), down)
    rejects(up, down, "infinity")
    rejects(up, want, "infinity")
    rejects(want, up, "infinity")
    moved = want.copy()
    moved[0, 1] = np.inf
    rejects(moved, up, "infinity")


def test_an_error_beside_an_infinity_is_seen(want: np.ndarray) -> None:
    ref = want.copy()
    ref[0, 0] = np.inf
    got = ref.copy()
    got[1, 1] += 1.0
    rejects(got, ref, r"nmse.*\(1, 1\)")


def test_shapes_are_not_broadcast(want: np.ndarray) -> None:
    rejects(want[:1], want, "shape")
    rejects(want.reshape(33, 7), want, "shape")
    rejects(want[None], want, "shape")


def test_dtypes(want: np.ndarray) -> None:
    rejects(want.astype(np.int32), want, "dtype")
    rejects(want.astype(np.float64), want, "dtype")
    rejects(mx.array(want), mx.array(want).astype(mx.bfloat16), "dtype of the reference")
    rejects(mx.array(want).astype(mx.bfloat16), want.astype(np.float16), "dtype of the reference")


def test_an_all_zero_reference_or_none_at_all_proves_nothing() -> None:
    zero = np.zeros(5, np.float32)
    rejects(zero, zero, "nmse")
    rejects(np.ones(5, np.float32), zero, "nmse")
    rejects(zero[:0], zero[:0], "no elements")
    inf = np.full(5, np.inf, np.float32)
    rejects(inf, inf, "nmse")


def test_one_wrong_element_among_many_is_named() -> None:
    want = np.ones((100, 100), np.float32)
    got = want.copy()
    got[12, 34] = 1.01
    rejects(got, want, r"\(12, 34\): got 1.01")
