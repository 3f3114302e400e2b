"""attend with rows: several sequences, several new tokens of one, and both, each as if alone."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal import attend as module
from qwen3_mlx.metal import rotation, tuning
from qwen3_mlx.metal.attend import Past, Pasts, attend, one_by_one, reference
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.matrix import Matrix
from tests.metal.cases import DTYPES, EPS, assert_rejected, gain, random
from tests.metal.harness import metal_source
from tests.metal.test_attend import past, table
from tests.oracle import assert_close

Heads = tuple[int, int]
LENGTHS = [(0, 3), (33, 0), (8, 40), (70, 1), (1, 2), (17, 17), (64, 5), (9, 9)]


def pasts_of(
    new: list[int], heads: Heads, dim: int, dtype: mx.Dtype, packing: tuple[int, int] = (0, 0)
) -> Pasts:
    """Sequences of different lengths, of which the i-th has ``new[i]`` rows."""
    each = [past(dtype, heads[1], dim, *LENGTHS[i], packing) for i in range(len(new))]
    rows = [[index, ahead] for index, count in enumerate(new) for ahead in range(count)]
    return Pasts(
        [one.keys for one in each],
        [one.values for one in each],
        mx.stack([one.tail for one in each]),
        mx.stack([one.counts for one in each]),
        mx.array(rows, mx.int32),
        1 if max(new) == 1 else module.MOST_ROWS,
    )


def check(
    new: list[int],
    heads: Heads = (4, 2),
    dim: int = 32,
    dtype: mx.Dtype = mx.float32,
    packing: tuple[int, int] = (0, 0),
) -> None:
    mx.random.seed(sum(new))
    before = pasts_of(new, heads, dim, dtype, packing)
    count = sum(new)
    qkv = random(count, 1, (heads[0] + 2 * heads[1]) * dim, dtype=dtype)
    norms = (2 * gain(dim, dtype), gain(dim, dtype))
    turns, _ = rotation.rotations(table(dim), before.counts, before.rows)
    got, tails = attend(qkv, heads, norms, EPS, turns, before)
    want, added = reference(qkv, heads, norms, EPS, turns, before)
    assert got.shape == (count, 1, heads[0] * dim) and got.dtype == dtype
    assert_close(got, want)
    for row, (index, ahead) in enumerate(before.rows.tolist()):
        recent = LENGTHS[index][1]
        assert_close(tails[index, :, :, recent + ahead], added[row])
        kept = before.tails[index, :, :, :recent]
        assert mx.array_equal(tails[index, :, :, :recent], kept).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("new", [[1, 1], [1] * 5, [1] * 8, [2], [7], [16], [3, 1, 2]])
def test_rows(new: list[int], dtype: mx.Dtype) -> None:
    check(new, dtype=dtype)


@pytest.mark.parametrize("new", [[1, 1], [5]])
@pytest.mark.parametrize("packing", [(8, 32), (4, 32)])
def test_rows_behind_a_packed_past(new: list[int], packing: tuple[int, int]) -> None:
    check(new, packing=packing, dtype=mx.bfloat16)


@pytest.mark.parametrize("new", [[1, 1, 1, 1], [4], [2, 3]])
def test_rows_behind_a_split_past(new: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPLIT_FROM", 16)
    monkeypatch.setattr(module, "_PART", 20)
    check(new, heads=(8, 2), dim=64)


@pytest.mark.parametrize("queries", [1, 2, 4])
@pytest.mark.parametrize("new", [[1, 1, 1, 1], [2, 3]])
@pytest.mark.parametrize("packing", [(0, 0), (8, 32)], ids=["plain", "packed"])
def test_rows_whose_heads_share_a_read(
    new: list[int],
    queries: int,
    packing: tuple[int, int],
    attend_cut: Callable[[int, int], None],
) -> None:
    attend_cut(8, queries)
    check(new, heads=(8, 2), dim=64, packing=packing)


def test_heads_share_a_read_where_there_are_threadgroups_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On CUDA the fewest heads whose threadgroups run at once; 32 heads as in 8B and 30B-A3B."""
    monkeypatch.setattr(tuning.backend, "device", lambda: "cuda")
    assert [tuning.sharing(32, 2**n) for n in range(5)] == [1, 1, 1, 2, 4]
    assert [tuning.sharing(16, 2**n) for n in range(5)] == [1, 1, 1, 1, 2]
    assert [tuning.sharing(64, 2**n) for n in range(5)] == [1, 1, 2, 4, 4]
    cuts = [tuning.attend(4, 128, 256, sharing) for sharing in (1, 2, 4)]
    assert cuts == [(8, 1, 16), (8, 2, 8), (8, 4, 8)]
    assert tuning.attend(4, 256, 512, 4) == (8, 1, 8) == tuning.attend(4, 256, 512, 1)
    monkeypatch.setattr(tuning.backend, "device", lambda: "metal")
    assert [tuning.sharing(32, 2**n) for n in range(5)] == [1, 1, 4, 4, 4]
    assert [tuning.attend(4, 128, 256, sharing) for sharing in (1, 4)] == [(16, 1, 8), (32, 4, 8)]


def test_positions() -> None:
    """Each row is turned by where it stands: behind its past and the rows before it."""
    before = pasts_of([1, 3, 2], (2, 1), 16, mx.float32)
    got, following = rotation.rotations(table(16, 1e6, 1.25), before.counts, before.rows)
    places = [3, 33, 34, 35, 48, 49]
    want = mx.stack([rotation.reference(table(16, 1e6, 1.25), at) for at in places])
    assert_close(got, want)
    moved = [
        [held, recent + new]
        for (held, recent), new in zip(before.counts.tolist(), [1, 3, 2], strict=True)
    ]
    assert following.tolist() == moved


COUNTS = {
    "a row too few": ("rows[2 * row + 1] + 1;", "rows[2 * row + 1];"),
    "every row the last": ("rows[2 * row + 2] != seq", "true"),
    "only the last sequence": ("rows[2 * row + 2] != seq", "false"),
}


@pytest.mark.parametrize("mutant", COUNTS)
def test_wrong_counts_are_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("rotation.metal", *COUNTS[mutant])
    assert_rejected(test_positions)


def test_one_text_serves_more_sequences(launches: list[Launch]) -> None:
    for count in (5, 6, 7, 8):
        check([1] * count)
    made = [launch for launch in launches if launch.kernel == "attend"]
    assert len({metal_source(launch) for launch in made}) == 1


def test_a_row_alone_is_a_sequence_alone() -> None:
    """The rows' reference is `attend` of one token, row by row."""
    before = pasts_of([2], (2, 1), 16, mx.float32)
    qkv, norms = random(2, 1, 4 * 16), (gain(16, mx.float32),) * 2
    turns, _ = rotation.rotations(table(16), before.counts, before.rows)
    out, added = one_by_one(attend_one, qkv, (2, 1), norms, EPS, turns, before)
    want, rows = reference(qkv, (2, 1), norms, EPS, turns, before)
    assert_close(out, want)
    assert_close(added, rows)


def attend_one(
    qkv: mx.array,
    heads: Heads,
    norms: tuple[mx.array, mx.array],
    eps: float,
    turns: mx.array,
    before: Past,
) -> tuple[mx.array, mx.array]:
    tail = mx.zeros((2, heads[1], module.TAIL, norms[0].shape[0]))
    recent = int(before.counts[1])
    tail[:, :, :recent] = before.tail[:, :, :recent]
    one = Past(Matrix(before.keys.weight), Matrix(before.values.weight), tail, before.counts)
    out, new = attend(qkv, heads, norms, eps, turns, one)
    return out, new[:, :, : recent + 1]


MUTANTS = {
    "the first sequence for all": ("seq<1?", "seq<99?"),
    "the second for the third": ("seq<3?n##2", "seq<3?n##1"),
    "a row sees the rows behind it": (": ahead + 1;", ": MOST < 2 ? 1 : 2;"),
    "a row sees only itself": ("recent : ahead + 1", "recent : 1"),
    "rows turned alike": ("turns + from * D", "turns"),
    "capacities alike": ("capacities[seq]", "capacities[0]"),
    "tails alike": ("(2 * seq * KV + kv)", "kv"),
    "a new row over another": ("(recent + ahead) * D + d", "recent * D + d"),
    "values of the first row": ("new_value + at * (H + 2 * KV) * D", "new_value"),
    "outputs of the first row": ("out[(row * H + head + q)", "out[(head + q)"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    old, new = MUTANTS[mutant]
    mutate("many_pasts.metal" if old.startswith("seq<") else "attend.metal", old, new)

    def both() -> None:
        check([1, 1, 1, 1])
        check([3, 1, 2])

    assert_rejected(both)
