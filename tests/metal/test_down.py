"""down: every dtype and packing, one to eight tokens, short rows, mutants."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal.down import down, reference, unsupported_reason
from tests.metal.cases import (
    DTYPES,
    PACKINGS,
    SOME_PACKINGS,
    assert_rejected,
    columns,
    packed,
    random,
)
from tests.oracle import assert_close


def check(
    packing: tuple[int, int],
    dtype: mx.Dtype,
    sizes: tuple[int, int],
    tokens: int = 2,
    top_k: int = 3,
    residual: bool = True,
) -> None:
    mx.random.seed(sum(sizes))
    narrow, rows = columns(packing, sizes[0]), sizes[1]
    matrix = packed(packing, dtype, 6, rows, narrow)
    h = random(tokens, top_k, narrow, dtype=dtype)
    experts = mx.argsort(random(tokens, 6), axis=-1)[:, :top_k].astype(mx.uint32)
    rest = random(1, tokens, rows, dtype=dtype) if residual else None
    assert unsupported_reason(h, matrix, experts) is None
    got = down(h, matrix, experts, rest)
    assert got.shape == ((1, tokens, rows) if residual else (tokens, rows))
    assert_close(got, reference(h, matrix, experts, rest).reshape(got.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_every_dtype_and_packing(packing: tuple[int, int], dtype: mx.Dtype) -> None:
    check(packing, dtype, (96, 20))


@pytest.mark.parametrize("sizes", [(32, 2), (768, 7), (1536, 6), (2560, 5), (160, 33)])
@pytest.mark.parametrize("residual", [False, True])
def test_ragged_sizes(sizes: tuple[int, int], residual: bool) -> None:
    check((4, 32), mx.float32, sizes, residual=residual)


@pytest.mark.parametrize("tokens", range(1, 9))
def test_one_to_eight_tokens(tokens: int) -> None:
    check((4, 64), mx.bfloat16, (128, 8), tokens)


@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_other_routings(top_k: int) -> None:
    check((8, 64), mx.float16, (64, 8), top_k=top_k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", SOME_PACKINGS)
def test_staged_in_every_dtype(packing: tuple[int, int], dtype: mx.Dtype, staged: None) -> None:
    check(packing, dtype, (96, 20))


@pytest.mark.parametrize("sizes", [(32, 2), (768, 7), (2560, 5)])
def test_staged_ragged_sizes(sizes: tuple[int, int], staged: None) -> None:
    check((4, 32), mx.float32, sizes)


MUTANTS = {
    "only the first slot": ("ALL = TOPK * PIECES", "ALL = PIECES"),
    "the first slot's expert for all": ("experts[token * TOPK + slot]", "experts[token * TOPK]"),
    "the first token's hidden layer for all": ("h + token * TOPK * F", "h"),
    "the residual forgotten": ("total + float(residual[out])", "total"),
    "the last piece dropped": ("p < ALL", "p < ALL - 1"),
    "rows past the end": ("lane == 0 && inside", "lane == 0"),
}
STAGED_MUTANTS = MUTANTS | {
    "no barriers": ("threadgroup_barrier(mem_flags::mem_threadgroup);", ";"),
    "the last piece dropped": ("if (p < pieces)", "if (p < pieces - 1)"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("down.metal", *MUTANTS[mutant])
    assert_rejected(lambda: check((4, 64), mx.float32, (768, 12)))


@pytest.mark.parametrize("mutant", STAGED_MUTANTS)
def test_a_broken_staged_kernel_is_noticed(
    mutant: str, mutate: Callable[[str, str, str], None], staged: None
) -> None:
    mutate("down_staged.metal", *STAGED_MUTANTS[mutant])
    assert_rejected(lambda: check((4, 64), mx.float32, (768, 12)))


def test_what_is_not_finite_stays_so() -> None:
    h = mx.zeros((1, 2, 64)).at[0, 1, 5].add(float("nan"))
    y = down(h, packed((4, 32), mx.float32, 3, 8, 64), mx.array([[0, 2]], mx.uint32))
    assert not mx.isfinite(y).any()


def test_unsupported_inputs_have_a_reason() -> None:
    matrix, experts = packed((4, 64), mx.float32, 4, 8, 128), mx.zeros((9, 2), mx.uint32)
    reason = unsupported_reason(mx.zeros((9, 2, 128)), matrix, experts)
    assert reason == "9 tokens: expected at most 8"
    odd = experts[:2].astype(mx.int32)
    reason = unsupported_reason(mx.zeros((2, 2, 128)), matrix, odd)
    assert reason == "experts are mlx.core.int32: expected uint32"
