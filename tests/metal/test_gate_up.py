"""gate_up: dense and routed, every dtype and packing, ragged sizes, mutants."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal.gate_up import gate_up, reference, unsupported_reason
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


def check_dense(packing: tuple[int, int], dtype: mx.Dtype, wide: int, rows: int) -> None:
    mx.random.seed(rows)
    wide = columns(packing, wide)
    gate, up = (packed(packing, dtype, rows, wide) for _ in range(2))
    x, norm = random(1, 1, wide, dtype=dtype, scale=2.0), gain(wide, dtype)
    assert unsupported_reason(x, gate, up, None) is None
    got = gate_up(x, gate, up, norm=norm, eps=EPS)
    assert got.shape == (1, 1, rows)
    assert_close(got, reference(x, gate, up, norm=norm, eps=EPS))


def check_routed(
    packing: tuple[int, int],
    dtype: mx.Dtype,
    sizes: tuple[int, int],
    tokens: int = 2,
    count: int = 6,
    top_k: int = 3,
    norm: bool = False,
) -> None:
    mx.random.seed(sum(sizes))
    wide, rows = columns(packing, sizes[0]), sizes[1]
    gate, up = (packed(packing, dtype, count, rows, wide) for _ in range(2))
    x = random(tokens, wide, dtype=dtype, scale=2.0)
    experts = mx.argsort(random(tokens, count), axis=-1)[:, :top_k].astype(mx.uint32)
    weights = mx.softmax(random(tokens, top_k), axis=-1)
    gains = gain(wide, dtype) if norm else None
    assert unsupported_reason(x, gate, up, experts) is None
    got = gate_up(x, gate, up, experts, weights, gains, EPS)
    assert got.shape == (tokens, top_k, rows)
    assert_close(got, reference(x, gate, up, experts, weights, gains, EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_routed_in_every_dtype_and_packing(packing: tuple[int, int], dtype: mx.Dtype) -> None:
    check_routed(packing, dtype, (160, 12))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", SOME_PACKINGS)
def test_dense_in_every_dtype(packing: tuple[int, int], dtype: mx.Dtype) -> None:
    check_dense(packing, dtype, 300, 22)


@pytest.mark.parametrize("sizes", [(64, 1), (2048, 7), (4096, 6), (6144, 4), (544, 33)])
def test_ragged_sizes(sizes: tuple[int, int]) -> None:
    check_routed((4, 32), mx.float32, sizes, norm=True)


@pytest.mark.parametrize("tokens", range(1, 9))
def test_one_to_eight_tokens(tokens: int) -> None:
    check_routed((4, 64), mx.bfloat16, (128, 8), tokens)


@pytest.mark.parametrize(("count", "top_k"), [(1, 1), (2, 1), (9, 8)])
def test_other_routings(count: int, top_k: int) -> None:
    check_routed((4, 64), mx.float32, (64, 8), 3, count, top_k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", SOME_PACKINGS)
def test_staged_in_every_dtype(packing: tuple[int, int], dtype: mx.Dtype, staged: None) -> None:
    check_routed(packing, dtype, (160, 12), norm=True)


@pytest.mark.parametrize("sizes", [(64, 2), (2048, 7), (6144, 4)])
def test_staged_ragged_sizes(sizes: tuple[int, int], staged: None) -> None:
    check_routed((4, 32), mx.float32, sizes, norm=True)


MUTANTS = {
    "gate and up swapped": ("gates[r] += gate.dot", "gates[r] += up.dot"),
    "the weight forgotten": ("* u * weight", "* u"),
    "the first expert for all": ("experts[pair]", "experts[0]"),
    "the first token for all": ("pair / TOPK", "0"),
    "silu without its sigmoid": ("g / (1 + metal::exp(-g)) * u", "g * u"),
    "the last piece dropped": ("p < PIECES", "p < PIECES - 1"),
    "rows off by one": ("inside ? row : 0", "inside ? row + 1 : 0"),
    "the norm forgotten": ("if (NORM) rstd", "if (false) rstd"),
}
STAGED_MUTANTS = MUTANTS | {
    "gate and up swapped": ("gates[r] += gate[a]", "gates[r] += up[a]"),
    "the last piece dropped": ("if (p < pieces)", "if (p < pieces - 1)"),
    "the norm forgotten": ("if (NORM) {", "if (false) {"),
    "no barriers": ("threadgroup_barrier(mem_flags::mem_threadgroup);", ";"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("gate_up.metal", *MUTANTS[mutant])
    assert_rejected(lambda: check_routed((4, 64), mx.float32, (1152, 10), norm=True))


@pytest.mark.parametrize("mutant", STAGED_MUTANTS)
def test_a_broken_staged_kernel_is_noticed(
    mutant: str, mutate: Callable[[str, str, str], None], staged: None
) -> None:
    mutate("gate_up_staged.metal", *STAGED_MUTANTS[mutant])
    assert_rejected(lambda: check_routed((4, 64), mx.float32, (1152, 10), norm=True))


def test_what_is_not_finite_stays_so() -> None:
    gate = packed((4, 32), mx.float32, 8, 64)
    x = mx.zeros((1, 1, 64)).at[..., 5].add(float("nan"))
    assert not mx.isfinite(gate_up(x, gate, gate)).any()


def test_unsupported_inputs_have_a_reason() -> None:
    gate = packed((4, 64), mx.float32, 4, 8, 128)
    experts = mx.zeros((9, 2), mx.uint32)
    assert (
        unsupported_reason(mx.zeros((9, 128)), gate, gate, experts)
        == "9 tokens: expected at most 8"
    )
    assert (
        unsupported_reason(mx.zeros((2, 128)), gate, gate, None) == "2 tokens: expected at most 1"
    )
    odd = mx.zeros((2, 2), mx.int32)
    assert (
        unsupported_reason(mx.zeros((2, 128)), gate, gate, odd)
        == "experts are mlx.core.int32: expected uint32"
    )
