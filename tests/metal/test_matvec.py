"""matvec: every dtype and packing, ragged sizes, and mutants of its text that must be noticed."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.matvec import matvec, reference, unsupported_reason
from tests.metal.cases import (
    DTYPES,
    EPS,
    PACKINGS,
    SOME_PACKINGS,
    assert_rejected,
    columns,
    gain,
    packed,
    random,
)
from tests.oracle import assert_close


def check(
    packing: tuple[int, int],
    dtype: mx.Dtype,
    wide: int,
    rows: tuple[int, ...],
    norm: bool = False,
    residual: bool = False,
    scale: float = 1.0,
) -> None:
    mx.random.seed(wide)
    wide = columns(packing, wide)
    matrices = [packed(packing, dtype, n, wide) for n in rows]
    x = random(1, 1, wide, dtype=dtype, scale=scale)
    weight = gain(wide, dtype) if norm else None
    rest = random(1, 1, sum(rows), dtype=dtype) if residual else None
    assert unsupported_reason(x, matrices) is None
    got = matvec(x, matrices, weight, EPS, rest)
    assert_close(got, reference(x, matrices, weight, EPS, rest))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_every_dtype_and_packing(packing: tuple[int, int], dtype: mx.Dtype) -> None:
    check(packing, dtype, 320, (24, 8, 12), norm=True)


@pytest.mark.parametrize("packing", SOME_PACKINGS)
@pytest.mark.parametrize(
    ("wide", "rows"),
    [(8, (9,)), (33, (11,)), (517, (9, 31)), (1024, (16, 8, 8)), (2560, (2,)), (9728, (3,))],
)
def test_ragged_sizes(packing: tuple[int, int], wide: int, rows: tuple[int, ...]) -> None:
    check(packing, mx.float32, wide, rows, residual=True)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_norm_and_residual(norm: bool, residual: bool) -> None:
    check((4, 64), mx.bfloat16, 192, (10,), norm, residual)


def test_eps_counts_on_small_inputs() -> None:
    """Where it matters, so that a wrong eps shows (ordinary inputs hide it)."""
    check((4, 64), mx.float32, 128, (8,), norm=True, scale=1e-3)


def test_one_launch(launches: list[Launch]) -> None:
    check((4, 64), mx.float32, 128, (8, 4, 4), norm=True, residual=True)
    assert [launch.kernel for launch in launches] == ["matvec"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", SOME_PACKINGS)
def test_staged_in_every_dtype(packing: tuple[int, int], dtype: mx.Dtype, staged: None) -> None:
    check(packing, dtype, 320, (24, 8, 12), norm=True)


@pytest.mark.parametrize(
    ("wide", "rows"), [(33, (7,)), (517, (9, 31)), (1024, (16, 8, 8)), (9728, (3,))]
)
def test_staged_ragged_sizes(wide: int, rows: tuple[int, ...], staged: None) -> None:
    check((8, 32), mx.float32, wide, rows, residual=True)


MUTANTS = {
    "the last piece of a row dropped": ("p < PIECES", "p < PIECES - 1"),
    "the residual forgotten": ("total + float(residual[row + r])", "total"),
    "the norm's mean over 32 columns less": ("/ K +", "/ (K - 32) +"),
    "eps ten times too large": ("as_type<float>(EPS)", "10 * as_type<float>(EPS)"),
    "the second matrix's rows for the third's": ("used - N0 - N1;", "used - N0;"),
    "rows past the end": ("lane == 0 && inside", "lane == 0"),
    "some lanes leave early": ("float squares = 0;", "if (lane > 20) return; float squares = 0;"),
    "some outputs not written": ("lane == 0 && inside", "lane == 0 && inside && r == 0"),
    "one row for all": ("at += PIECES;", ""),
    "one lane's squares for all": ("simd_sum(squares)", "squares * 32"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("matvec.metal", *MUTANTS[mutant])

    def whole() -> None:
        check((4, 64), mx.float32, 1152, (24, 12, 24), True, True, scale=1e-3)

    assert_rejected(whole)


STAGED_MUTANTS = {
    "the last piece of a row dropped": ("if (p < pieces)", "if (p < pieces - 1)"),
    "the residual forgotten": ("total + float(residual[row + r])", "total"),
    "the norm's mean over 32 columns less": ("all / K", "all / (K - 32)"),
    "eps ten times too large": ("as_type<float>(EPS)", "10 * as_type<float>(EPS)"),
    "the second matrix's rows for the third's": ("used - N0 - N1;", "used - N0;"),
    "rows past the end": ("lane == 0 && inside", "lane == 0"),
    "some lanes leave early": ("float squares = 0;", "if (lane > 20) return; float squares = 0;"),
    "a simdgroup misses a barrier": ("float squares = 0;", "if (!inside) return; float squares;"),
    "some outputs not written": ("lane == 0 && inside", "lane == 0 && inside && r == 0"),
    "no barriers": ("threadgroup_barrier(mem_flags::mem_threadgroup);", ";"),
    "a tile staged too early": ("if (first > 0) threadgroup_barrier", "if (first > K) {} //"),
}


@pytest.mark.parametrize("mutant", STAGED_MUTANTS)
def test_a_broken_staged_kernel_is_noticed(
    mutant: str, mutate: Callable[[str, str, str], None], staged: None
) -> None:
    mutate("matvec_staged.metal", *STAGED_MUTANTS[mutant])

    def whole() -> None:
        check((4, 64), mx.float32, 5184, (24, 12, 24), True, True, scale=1e-3)

    assert_rejected(whole)


SHARED_MUTANTS = {
    "biases forgotten": ("packed_rows", "bias * sum", "0"),
    "a nibble scaled wrongly": ("rows", "4 * i", "3 * i"),
    "groups off by one": ("packed_rows", "Piece<BITS>::SIZE);", "Piece<BITS>::SIZE) + 1;"),
    "the sum of a piece short": ("unstaged", "sum += (four[0] + four[1])", "sum = (four[0] + 0)"),
    "another piece's norm": ("unstaged", "norm + at + j", "norm + j"),
    "squares of the scaled": ("unstaged", "metal::fma(four[i], four[i],", "metal::fma(four[i], 1,"),
}


@pytest.mark.parametrize("mutant", SHARED_MUTANTS)
def test_broken_unpacking_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    file, old, new = SHARED_MUTANTS[mutant]
    mutate(f"{file}.metal", old, new)
    assert_rejected(lambda: check((4, 64), mx.float32, 192, (8,), norm=True))


STAGING_MUTANTS = {
    "the sum of a piece short": ("if (BITS == 4) sum += simd_shuffle_xor(sum, 4);", ""),
    "places mixed up": ("piece * COUNT + (j ^", "piece * COUNT / 2 + (j ^"),
}


@pytest.mark.parametrize("mutant", STAGING_MUTANTS)
def test_broken_staging_is_noticed(
    mutant: str, mutate: Callable[[str, str, str], None], staged: None
) -> None:
    mutate("staged.metal", *STAGING_MUTANTS[mutant])
    assert_rejected(lambda: check((4, 64), mx.float32, 192, (8,)))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(poison: float) -> None:
    x = mx.zeros((1, 1, 64)).at[..., 5].add(poison)
    y = matvec(x, [packed((4, 32), mx.float32, 8, 64)], gain(64, mx.float32), EPS)
    assert not mx.isfinite(y).any()


def test_unsupported_inputs_have_a_reason() -> None:
    x = mx.zeros((1, 1, 128))
    four, eight = (packed((bits, 64), mx.float32, 8, 128) for bits in (4, 8))
    assert unsupported_reason(mx.zeros((1, 2, 128)), [four]) == "2 tokens: expected 1"
    assert unsupported_reason(x, [four, eight]) == "the matrices are packed differently"
    assert "bfloat16" in (unsupported_reason(x.astype(mx.bfloat16), [four]) or "")
    assert "int32" in (unsupported_reason(x.astype(mx.int32), [four]) or "")
    six = packed((6, 64), mx.float32, 8, 128)
    assert unsupported_reason(x, [six]) == "6 bits: expected 4, 8 or none"
    assert "16 bytes" in (
        unsupported_reason(mx.zeros((1, 6)), [packed((0, 0), mx.float32, 8, 6)]) or ""
    )
    assert unsupported_reason(x, [four] * 4) == "4 matrices: expected 1 to 3"
    small = packed((4, 64), mx.float32, 4, 64)  # four scales: MLX passes them as `constant`
    assert unsupported_reason(mx.zeros((1, 64)), [small]) == (
        "a matrix of 4 x 64: too small for the kernels"
    )
