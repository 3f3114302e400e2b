"""route: the choice, its tie rule, its weights, and mutants."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal.route import reference, route, unsupported_reason
from tests.metal.cases import DTYPES, assert_rejected, random
from tests.oracle import assert_close


def check(dtype: mx.Dtype, count: int, top_k: int, normalise: bool = True) -> None:
    mx.random.seed(count)
    logits = random(3, count, dtype=dtype, scale=2.0)
    assert unsupported_reason(logits.dtype, logits.shape[-1], top_k) is None
    experts, weights = route(logits, top_k, normalise)
    right, want = reference(logits, top_k, normalise)
    assert experts.tolist() == right.tolist()
    assert_close(weights, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "top_k"), [(1, 1), (7, 2), (31, 4), (33, 8), (128, 8), (160, 8)])
def test_every_dtype_and_ragged_counts(dtype: mx.Dtype, count: int, top_k: int) -> None:
    check(dtype, count, top_k)


@pytest.mark.parametrize(("count", "top_k"), [(20, 20), (64, 32), (517, 3)])
@pytest.mark.parametrize("normalise", [False, True])
def test_all_of_them_or_few(count: int, top_k: int, normalise: bool) -> None:
    check(mx.float32, count, top_k, normalise)


def test_of_equal_logits_the_lowest_index_wins() -> None:
    logits = mx.zeros((1, 128)).at[0, mx.array([100, 40, 7])].add(1.0)
    experts, weights = route(logits, 8, True)
    assert experts.tolist() == [[7, 40, 100, 0, 1, 2, 3, 4]]
    assert_close(weights[:, 3:], mx.broadcast_to(weights[:, 3:4], (1, 5)))


def test_zeros_of_both_signs_are_equal() -> None:
    logits = mx.array([[0.0, -0.0, 0.0, -1.0]])
    assert route(logits, 3, True)[0].tolist() == [[0, 1, 2]]


def test_infinitely_unlikely_experts_come_last() -> None:
    logits = mx.array([[float("-inf"), 2.0, float("-inf"), -3.0]])
    experts, weights = route(logits, 3, True)
    assert experts.tolist() == [[1, 3, 0]]
    assert weights[0, 2] == 0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_experts_exist(poison: float) -> None:
    logits = random(2, 40).at[0, 3].add(poison)
    experts, weights = route(logits, 4, True)
    assert mx.isnan(weights[0]).all() and mx.isfinite(weights[1]).all()
    assert len(set(experts[0].tolist())) == 4 and mx.max(experts) < 40
    everywhere = route(mx.full((1, 30), poison), 30, True)[0]
    assert sorted(everywhere[0].tolist()) == list(range(30))


MUTANTS = {
    "the highest index wins": ("index = simd_min(index)", "index = simd_max(index)"),
    "softmax over the chosen alone": ("/ total", ""),
    "a choice made twice": ("== index ? 0u : keys[j]", "== index ? keys[j] : keys[j]"),
    "the last experts unseen": ("HELD = (E + 31) / 32", "HELD = E / 32"),
    "negative logits ordered backwards": ("? ~bits :", "? bits :"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("choose.metal", *MUTANTS[mutant])

    def both() -> None:
        check(mx.float32, 50, 20, normalise=False)
        test_of_equal_logits_the_lowest_index_wins()

    assert_rejected(both)


def test_unsupported_reason_have_a_reason() -> None:
    assert unsupported_reason(mx.float32, 64, 33) == "top 33 of 64: expected at most 32"
    assert unsupported_reason(mx.float32, 2000, 4) == "2000 experts: expected at most 1024"
    assert unsupported_reason(mx.int32, 8, 4) == "logits are mlx.core.int32"
