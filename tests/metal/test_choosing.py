"""The router's choice made inside `gate_up`: equal to `route` and then `gate_up`, mutants."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal import route
from qwen3_mlx.metal.gate_up import reference, route_and_gate_up
from tests.metal.cases import (
    DTYPES,
    EPS,
    SOME_PACKINGS,
    assert_rejected,
    columns,
    gain,
    packed,
    random,
)
from tests.oracle import assert_close


def check(
    packing: tuple[int, int] = (4, 64),
    dtype: mx.Dtype = mx.float32,
    sizes: tuple[int, int] = (128, 10),
    tokens: int = 2,
    routing: tuple[int, int, bool] = (6, 3, True),
    norm: bool = True,
) -> None:
    mx.random.seed(sum(sizes) + tokens)
    wide, (count, top_k, normalise) = columns(packing, sizes[0]), routing
    gate, up = (packed(packing, dtype, count, sizes[1], wide) for _ in range(2))
    x, logits = random(tokens, wide, dtype=dtype), random(tokens, count, dtype=dtype)
    weight = gain(wide, dtype) if norm else None
    h, chosen = route_and_gate_up(x, gate, up, logits, top_k, normalise, weight, EPS)
    experts, weights = route.reference(logits, top_k, normalise)
    assert h.dtype == dtype and chosen.tolist() == experts.tolist()
    assert_close(h, reference(x, gate, up, experts, weights, weight, EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", SOME_PACKINGS)
def test_every_dtype(packing: tuple[int, int], dtype: mx.Dtype) -> None:
    check(packing, dtype)


@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_one_to_eight_tokens(tokens: int) -> None:
    check(tokens=tokens)


@pytest.mark.parametrize("sizes", [(64, 2), (2048, 33), (6144, 6)])
@pytest.mark.parametrize("norm", [False, True])
def test_ragged_sizes(sizes: tuple[int, int], norm: bool) -> None:
    """6144: more than a tile, the choice only before the first."""
    check(sizes=sizes, norm=norm)


@pytest.mark.parametrize("routing", [(1, 1, True), (40, 8, True), (33, 32, False), (6, 1, False)])
def test_other_routings(routing: tuple[int, int, bool]) -> None:
    check(sizes=(64, 8), routing=routing)


def test_of_equal_logits_the_lowest_index_wins() -> None:
    gate, up = (packed((4, 64), mx.float32, 9, 4, 64) for _ in range(2))
    _, chosen = route_and_gate_up(random(1, 64), gate, up, mx.zeros((1, 9)), 4, True)
    assert chosen.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_experts_exist(poison: float) -> None:
    gate, up = (packed((4, 64), mx.float32, 6, 4, 64) for _ in range(2))
    logits = random(2, 6).at[1, 3].add(poison)
    h, chosen = route_and_gate_up(random(2, 64), gate, up, logits, 3, True)
    assert mx.isfinite(h[0]).all() and not mx.isfinite(h[1]).any()
    assert len(set(chosen[1].tolist())) == 3 and mx.max(chosen) < 6


MUTANTS = {
    "the first slot's expert for all": ("lane == pair % TOPK", "lane == 0"),
    "the first token's logits for all": ("pair / TOPK * E", "0"),
    "the choice of the first token alone is told": ("chosen[pair + lane]", "chosen[lane]"),
    "chosen again for every tile": ("if (first == 0) at +=", "at +="),
    "the first expert for all": ("picked[0] * F", "0 * F"),
    "the weight forgotten": ("float weight = picked_weight[0];", "float weight = 1;"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("gate_up_staged.metal", *MUTANTS[mutant])
    assert_rejected(lambda: check(sizes=(6144, 4)))
