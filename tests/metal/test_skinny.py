"""skinny: a few rows through dense matrices and experts, against float32, and mutants."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal import down as vector_down
from qwen3_mlx.metal import gate_up as vector
from qwen3_mlx.metal import matvec as vector_matvec
from qwen3_mlx.metal import route, skinny, tuning
from tests.metal.cases import EPS, assert_rejected, gain, packed, random
from tests.oracle import assert_close

BF16 = mx.bfloat16
PACKINGS = [(4, 64), (8, 32), (4, 128), (0, 0)]
NORMED = 3e-5
"""x times the norm's weight is rounded on its way to the matrix units."""


def check_matvec(packing: tuple[int, int], rows: int, sizes: list[int], columns: int) -> None:
    mx.random.seed(rows)
    x, norm = random(rows, 1, columns, dtype=BF16), gain(columns, BF16)
    matrices = [packed(packing, BF16, size, columns) for size in sizes]
    assert skinny.unsupported_reason(BF16, matrices) is None
    residual = random(rows, 1, sum(sizes), dtype=BF16)
    for given in ({"norm": norm, "eps": 1e-2}, {"residual": residual}):
        got = skinny.matvec(x, matrices, **given)
        want = vector_matvec.reference(x, matrices, **given)
        assert got.shape == want.shape and got.dtype == BF16
        assert_close(got, want, bound=NORMED if "norm" in given else None)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("rows", [2, 5, 8, 9, 16])
def test_rows_through_matrices(packing: tuple[int, int], rows: int) -> None:
    check_matvec(packing, rows, [40, 10, 6], 256)


@pytest.mark.parametrize("sizes", [[16], [8, 8], [4098], [64, 2, 2]])
def test_ragged_matrices(sizes: list[int]) -> None:
    check_matvec((4, 64), 3, sizes, 1152 if sum(sizes) < 4096 else 384)


def check_experts(packing: tuple[int, int], rows: int, experts: int, top_k: int) -> None:
    mx.random.seed(rows)
    x, norm = random(rows, 1, 256, dtype=BF16), gain(256, BF16)
    logits = random(rows, 1, experts, dtype=BF16)
    gate, up = (packed(packing, BF16, experts, 32, 256) for _ in range(2))
    chosen, weights = route.reference(logits[:, 0], top_k, True)
    h, groups = skinny.hidden(x, logits, gate, up, top_k, True, norm, EPS)
    want = vector.reference(x[:, 0], gate, up, chosen, weights, norm, EPS)
    assert_close(h, want, bound=NORMED)
    assert mx.array_equal(groups.chosen, chosen).item()
    check_groups(groups)
    last, residual = packed(packing, BF16, experts, 48, 256), random(rows, 1, 48, dtype=BF16)
    h = random(rows, top_k, 256, dtype=BF16)
    y = skinny.down(h, last, groups, residual)
    truth = vector_down.reference(h, last, chosen, residual)
    assert_close(y[:, 0], truth)


def check_groups(groups: route.Groups) -> None:
    chosen, count = groups.chosen.tolist(), int(groups.experts[0])
    named = groups.experts[1 : 1 + count].tolist()
    assert sorted(named) == sorted({e for row in chosen for e in row})
    for place, expert in enumerate(named):
        slots = [row.index(expert) if expert in row else -1 for row in chosen]
        assert groups.members[place].tolist() == slots


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("rows", [2, 8, 11])
def test_rows_through_experts(packing: tuple[int, int], rows: int) -> None:
    check_experts(packing, rows, 9, 4)


def test_one_expert_for_all_and_one_each() -> None:
    check_experts((4, 64), 4, 1, 1)
    check_experts((4, 64), 16, 128, 2)


@pytest.mark.parametrize("rows", [2, 16])
def test_rows_through_a_gated_network(rows: int) -> None:
    x, norm = random(rows, 1, 256, dtype=BF16), gain(256, BF16)
    gate, up = (packed((4, 64), BF16, 72, 256) for _ in range(2))
    got = skinny.gate_up(x, gate, up, norm=norm, eps=EPS)
    assert_close(got, vector.reference(x, gate, up, norm=norm, eps=EPS), bound=NORMED)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int, int]], None]:
    """``cut((tiles, simds, ahead))``: `skinny` cut so, whatever the matrices."""

    def put(given: tuple[int, int, int]) -> None:
        monkeypatch.setattr(tuning, "skinny", lambda *_: tuning.RowsCut(*given))

    return put


CUTS = [(1, 1, 1), (1, 4, 2), (2, 2, 2), (4, 2, 1), (4, 1, 2), (1, 16, 1), (1, 2, 4)]


@pytest.mark.parametrize("given", CUTS)
def test_every_cut(
    given: tuple[int, int, int], cut: Callable[[tuple[int, int, int]], None]
) -> None:
    cut(given)
    check_matvec((4, 64), 9, [40, 10, 6], 1152)
    check_experts((8, 32), 3, 9, 4)


MUTANTS = {
    "a chunk too few": ("step < steps) {", "step < steps - 1) {"),
    "eps forgotten": ("as_type<float>(EPS)", "0.0f"),
    "the residual forgotten": ("a += float(residual[out]);", ""),
    "the second half for the first": ("own = taken[m][p]", "own = taken[0][p]"),
    "every matrix the first": ("n < N0 ? 0 : n < N0 + N1 ? 1 : 2;", "0;"),
    "absent rows counted": ("if (!absent) unit", "unit"),
    "the first group for all": ("1 + (SUMMED ? next / CHUNKS : own_group)", "1"),
    "weights forgotten": ("* (up_a * rstd) * weight", "* (up_a * rstd)"),
    "upper rows for lower ones": ("b.x, c.x, b.y, c.y", "c.x, b.x, c.y, b.y"),
    "pairs in another order": ("own.x, own.y);", "own.y, own.x);"),
    "another row's squares": ("quarter == own_row / 2", "quarter == 0"),
    "one chunk under way too few": ("a * SIMDS, next", "0 * SIMDS, next"),
    "the other slot": ("to = row * TOPK + slot;", "to = row * TOPK + TOPK - 1 - slot;"),
    "no barrier": ("threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    "one simdgroup's part": ("s < SIMDS", "s < 1"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(
    mutant: str,
    mutate: Callable[[str, str, str], None],
    cut: Callable[[tuple[int, int, int]], None],
) -> None:
    cut((2, 2, 2))
    mutate("skinny.metal", *MUTANTS[mutant])

    def both() -> None:
        check_matvec((4, 64), 9, [40, 10, 6], 1152)
        check_experts((4, 64), 3, 9, 4)

    assert_rejected(both)


GROUP_MUTANTS = {
    "every pair leads": ("leads[pair] = lead;", "leads[pair] = 1;"),
    "places not counted": ("place += leads[i]", "place += 0"),
    "the last expert forgotten": ("place + leads[pair]", "place"),
    "no slot is none": ("int slot = -1;", "int slot = 0;"),
}


@pytest.mark.parametrize("mutant", GROUP_MUTANTS)
def test_a_broken_list_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("route.metal", *GROUP_MUTANTS[mutant])

    def both() -> None:
        check_groups(route.grouped(random(5, 1, 9), 4, True))
        check_groups(route.grouped(mx.eye(4)[:, None], 1, True))  # the last pair leads

    assert_rejected(both)


def test_unsupported_inputs_have_a_reason() -> None:
    matrix = packed((4, 64), BF16, 8, 256)
    assert "bfloat16" in (skinny.unsupported_reason(mx.float16, [matrix]) or "")
    assert "multiple of 128" in (
        skinny.unsupported_reason(BF16, [packed((4, 64), BF16, 8, 192)]) or ""
    )
    assert "even" in (skinny.unsupported_reason(BF16, [packed((4, 64), BF16, 9, 256)]) or "")
