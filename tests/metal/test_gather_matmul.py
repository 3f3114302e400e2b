"""gather_matmul: both matrices, dtypes, packings, loads of experts, ragged sizes, mutants."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal import gather_matmul as module
from qwen3_mlx.metal.gather_matmul import down, gate_up, plan, reference, unsupported_reason
from tests.metal.cases import assert_rejected, packed, random
from tests.oracle import assert_close

HALVES = [mx.bfloat16, mx.float16]
PACKINGS = [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threadgroups of less work: two tiles of rows, so that experts have several threadgroups."""
    monkeypatch.setattr(module, "ROWS", 32)
    monkeypatch.setattr(module, "SIMDS", 2)
    monkeypatch.setattr(module, "TILES", 2)


def routed(tokens: int, count: int, top_k: int) -> mx.array:
    return mx.argsort(random(tokens, count), axis=-1)[:, :top_k].astype(mx.uint32)


def check(
    experts: mx.array,
    count: int = 4,
    packing: tuple[int, int] = (4, 64),
    dtype: mx.Dtype = mx.bfloat16,
    sizes: tuple[int, int] = (128, 128),
) -> None:
    mx.random.seed(sum(sizes))
    wide, inner = sizes
    gate, up = (packed(packing, dtype, count, inner, wide) for _ in range(2))
    last = packed(packing, dtype, count, wide, inner)
    x, weights = random(len(experts), wide, dtype=dtype), mx.softmax(random(*experts.shape), -1)
    assert unsupported_reason(dtype, gate, up, last) is None
    order = plan(experts, count)
    h = gate_up(x, gate, up, weights, order)
    want_h, _ = reference(x, (gate, up, last), experts, weights, dtype)
    assert_close(h, want_h.reshape(-1, inner)[order.order])
    given = mx.zeros_like(h)
    given[order.order] = h  # what the second matrix is given, in the pairs' own order
    rows = given.reshape(*experts.shape, inner).astype(mx.float32)
    want = last.dequantized().astype(dtype).astype(mx.float32)[experts] @ rows[..., None]
    assert_close(down(h, last, order), want[..., 0])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_dtypes_and_packings(packing: tuple[int, int], dtype: mx.Dtype) -> None:
    check(routed(11, 4, 2), 4, packing, dtype)


@pytest.mark.parametrize("sizes", [(256, 128), (128, 384), (384, 640)])
def test_sizes(sizes: tuple[int, int]) -> None:
    check(routed(9, 3, 2), 3, sizes=sizes)


@pytest.mark.parametrize("sizes", [(64, 192), (72 * 8, 64)])
def test_columns_that_fill_no_threadgroup(sizes: tuple[int, int]) -> None:
    check(routed(9, 3, 2), 3, (8, 64), sizes=sizes)


LOADS = {
    "one row": [[0]],
    "one expert has all": [[2]] * 70,
    "one row beyond a tile": [[1]] * 33 + [[0]],
    "whole tiles": [[0]] * 32 + [[3]] * 64,
    "the first idle": [[3], [2], [3]],
    "all slots": [[3, 2, 1, 0]] * 9,
}


@pytest.mark.parametrize("load", LOADS)
def test_uneven_loads(load: str) -> None:
    check(mx.array(LOADS[load], mx.uint32))


def test_more_experts_than_threads() -> None:
    check(mx.array([[99], [64], [63], [0]], mx.uint32), 100)


def test_as_it_is_cut_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    check(mx.array([[1]] * 49 + [[0]], mx.uint32), 2, sizes=(128, 256))


def test_the_whole_in_float32() -> None:
    """Against the reference that rounds nothing, as stock operations are measured."""
    mx.random.seed(2)
    matrices = tuple(packed((4, 64), mx.float16, 3, 128, 128) for _ in range(3))
    experts, weights = routed(9, 3, 2), mx.full((9, 2), 0.5)
    x, order = random(9, 128, dtype=mx.float16), plan(experts, 3)
    got = down(gate_up(x, *matrices[:2], weights, order), matrices[2], order)
    # 4e-8 each: weights of three matrices, hidden layer and output are rounded to float16
    assert_close(got, reference(x, matrices, experts, weights)[1], bound=4e-7)


MUTANTS = {
    "gate and up swapped": ("second ? up_w : gate_w", "second ? gate_w : up_w"),
    "scales of another matrix": ("second ? up_s : gate_s", "gate_s"),
    "the weight forgotten": ("up[0] * weight", "up[0]"),
    "silu without its sigmoid": ("a / (1 + metal::exp(-a))", "a"),
    "the pair taken for its token": ("uint(order[at]) / TOPK", "uint(order[at])"),
    "rows left sorted": ("GATED ? uint(start + r) : pair", "uint(start + r)"),
    "the last chunk dropped": ("chunk < CHUNKS; chunk++", "chunk < CHUNKS - 1; chunk++"),
    "every tile the first": ("+ found[1] * ROWS", ""),
    "the first expert for all": ("size_t(expert) * N", "0 * N"),
    "the lower half's rows twice": ("16 * m + 8 + column, quarter", "16 * m + column, quarter"),
    "a tile of rows too few": ("16 * m < rows", "16 * m + 16 < rows"),
    "rows of the next expert": ("start < ROWS ? ends[expert] - start", "start < 0 ? 0"),
    "no barriers": ("threadgroup_barrier(mem_flags::mem_threadgroup);", ";"),
    "the next chunk over this one": ("(chunk + 1) % 2", "chunk % 2"),
    "groups by piece": ("at * PIECE / GROUP", "at"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("gather_matmul.metal", *MUTANTS[mutant])
    experts = mx.array([[1, 0]] * 40 + [[2, 0]] * 9, mx.uint32)
    assert_rejected(lambda: check(experts, 3, sizes=(256, 256)))


UNITS = {
    "nibbles in another order": ("low >> 8 & 0x000f000fu", "high >> 8 & 0x000f000fu"),
    "places that collide": ("p * ROWS * 4 +", "p * ROWS * 2 +"),
}


@pytest.mark.parametrize("mutant", UNITS)
def test_broken_units_are_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("units.metal", *UNITS[mutant])
    assert_rejected(lambda: check(routed(20, 3, 2), 3))


def test_unsupported_inputs_have_a_reason() -> None:
    good = packed((4, 64), mx.bfloat16, 2, 128, 128)
    narrow, odd = packed((4, 64), mx.bfloat16, 2, 128, 64), packed((8, 64), mx.bfloat16, 2, 12, 128)
    plain, other = packed((0, 0), mx.bfloat16, 2, 128, 128), packed((8, 64), mx.bfloat16, 2, 8, 128)
    mixed = (mx.bfloat16, good, good, plain)  # as recipes make them
    assert unsupported_reason(*mixed) == "the experts are not packed"
    reasons = {
        "activations are mlx.core.float32: expected 16 bits": (mx.float32, good, good, good),
        "the experts are not packed": (mx.bfloat16, plain, plain, plain),
        "rows of 64 weights: expected a multiple of 128": (mx.bfloat16, good, good, narrow),
        "12 rows: expected a multiple of 8": (mx.bfloat16, odd, odd, good),
        "the matrices are packed differently": (mx.bfloat16, good, other, good),
        "weights are mlx.core.bfloat16": (mx.float16, good, good, good),
    }
    for expected, given in reasons.items():
        assert expected in (unsupported_reason(*given) or "")
