"""attend and rotation: every dtype, ragged pasts, groupings of heads, YaRN's factor, mutants."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.config.rope import Rope, Yarn
from qwen3_mlx.metal import attend as module
from qwen3_mlx.metal import rotation
from qwen3_mlx.metal.attend import Past, attend, reference, unsupported_reason
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.matrix import Matrix
from qwen3_mlx.nn.rope import RotaryEmbedding, rotation_table
from tests.metal.cases import DTYPES, EPS, assert_rejected, gain, random
from tests.metal.harness import metal_source
from tests.oracle import assert_close

Heads = tuple[int, int]


def table(dim: int, theta: float = 1e4, scale: float = 1.0) -> mx.array:
    return mx.array([theta ** (-2 * i / dim) for i in range(dim // 2)] + [scale], mx.float32)


def past(
    dtype: mx.Dtype, heads: int, dim: int, held: int, recent: int, packing: tuple[int, int] = (0, 0)
) -> Past:
    """Keys and values beyond those that count are NaN: none may be looked at."""
    keys, values = (random(1, heads, max(held, 1) + 9, dim, dtype=dtype) for _ in range(2))
    tail = random(2, heads, module.TAIL, dim, dtype=dtype)
    for array in (keys, values):
        array[:, :, held:] = float("nan")
    tail[:, :, recent:] = float("nan")
    counts, (bits, group) = mx.array([held, recent], mx.int32), packing
    if not bits:
        return Past(Matrix(keys), Matrix(values), tail, counts)
    packed = (Matrix(*mx.quantize(x, group, bits), bits=bits, group=group) for x in (keys, values))
    return Past(*packed, tail, counts)


def check(
    dtype: mx.Dtype,
    heads: Heads,
    dim: int,
    held: int,
    recent: int,
    packing: tuple[int, int] = (0, 0),
) -> None:
    mx.random.seed(held)
    qkv = random(1, 1, (heads[0] + 2 * heads[1]) * dim, dtype=dtype)
    norms = (2 * gain(dim, dtype), gain(dim, dtype))
    before = past(dtype, heads[1], dim, held, recent, packing)
    assert unsupported_reason(qkv, heads, norms, before) is None
    turns = rotation.reference(table(dim), held + recent)
    got, tail = attend(qkv, heads, norms, EPS, turns, before)
    want, rows = reference(qkv, heads, norms, EPS, turns, before)
    assert got.dtype == dtype
    assert_close(got, want)
    assert_close(tail[:, :, : recent + 1], rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [8, 32, 64, 128, 256])
def test_every_dtype_and_head(dtype: mx.Dtype, dim: int) -> None:
    check(dtype, (4, 2), dim, 33, 5)


@pytest.mark.parametrize("held", [0, 1, 7, 8, 9, 31, 63, 64, 65, 517])
@pytest.mark.parametrize("recent", [0, 1, 63])
def test_ragged_pasts(held: int, recent: int) -> None:
    check(mx.float32, (2, 1), 16, held, recent)


@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (5, 1), (8, 1), (16, 1), (6, 3)])
def test_groupings_of_heads(heads: Heads) -> None:
    check(mx.float32, heads, 32, 20, 3)


@pytest.mark.parametrize("held", [1, 120, 300, 517])
def test_a_long_past_is_split(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPLIT_FROM", 64)
    monkeypatch.setattr(module, "_PART", 100)
    for dtype in DTYPES:
        check(dtype, (4, 2), 64, held, 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packing", [(8, 64), (4, 64), (8, 32), (4, 32)])
@pytest.mark.parametrize("dim", [32, 128, 256])
def test_a_packed_past(packing: tuple[int, int], dim: int, dtype: mx.Dtype) -> None:
    check(dtype, (4, 2), dim, 33, 5, (packing[0], min(packing[1], dim)))


@pytest.mark.parametrize("dim", [128, 256])
def test_a_long_packed_past(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split, and read by several heads at once."""
    monkeypatch.setattr(module, "_SPLIT_FROM", 64)
    monkeypatch.setattr(module, "_PART", 100)
    check(mx.bfloat16, (8, 2), dim, 300, 10, (8, 64))
    check(mx.bfloat16, (6, 1), dim, 517, 0, (4, 64))


CUTS = [(8, 1), (8, 4), (16, 2), (32, 1), (32, 4)]
"""Lanes and queries: CUDA's, and those that a proof may try on a Mac."""


@pytest.mark.parametrize("cut", CUTS)
def test_other_cuts(cut: tuple[int, int], attend_cut: Callable[[int, int], None]) -> None:
    attend_cut(*cut)
    check(mx.bfloat16, (4, 1), 64, 33, 5)
    check(mx.float32, (4, 1), 64, 70, 0, (4, 32))


def test_a_longer_past_needs_no_other_text(launches: list[Launch]) -> None:
    """The number of its parts is read from the grid: nothing is compiled in mid-conversation."""
    for held in (1100, 3000, 5000):
        before = past(mx.float16, 1, 16, held, 0)
        qkv, norms = random(1, 1, 4 * 16, dtype=mx.float16), (gain(16, mx.float16),) * 2
        got, _ = attend(qkv, (2, 1), norms, EPS, mx.ones((2, 8)), before)
        want, _ = reference(qkv, (2, 1), norms, EPS, mx.ones((2, 8)), before)
        assert_close(got, want)
    assert [launch.kernel for launch in launches] == ["attend", "combine"] * 3
    assert len({launch.grid for launch in launches if launch.kernel == "attend"}) == 3
    assert len({metal_source(launch) for launch in launches}) == 2


BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
MUTANTS = {
    "a key too many": ("source == 1 ? recent :", "source == 1 ? recent + 1 :"),
    "a key too few": (
        "share < held ? (int(part) + 1) * share : held;",
        "share < held ? (int(part) + 1) * share : held - 1;",
    ),
    "heads tiled instead of repeated": ("kv = head / PER_KEY_HEAD", "kv = head % KV"),
    "as many keys of room as heads": ("keys_w0_shape[2]", "keys_w0_shape[1]"),
    "unscaled scores": ("metal::precise::rsqrt(float(D))", "1.0f"),
    "the new token ignored": ("source < 3", "source < 2"),
    "the tail ignored": ("source == 1 ? recent", "source == 1 ? 0"),
    "keys without their own norm": ("q_norm : k_norm", "q_norm : q_norm"),
    "no barriers": (BARRIER, ""),
    "a barrier some miss": ("bests[place] = top;", f"bests[place] = top; {BARRIER}"),
    "lanes side by side not merged": ("across<LANES>(total[q] * fade)", "total[q] * fade"),
    "every head the first": ("query[q].dot", "query[0].dot"),
    "the tail's last row lost": ("recent * D / 4", "(recent - 1) * D / 4"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_noticed(
    mutant: str,
    mutate: Callable[[str, str, str], None],
    attend_cut: Callable[[int, int], None],
) -> None:
    mutate("attend.metal", *MUTANTS[mutant])
    attend_cut(8, 2)
    assert_rejected(lambda: check(mx.float32, (4, 2), 16, 70, 10))


PACKED_MUTANTS = {
    "scales of the first group": ("scales[row * GROUPS + own * PER / GROUP]", "scales[row]"),
    "the first row's bias": ("biases[row * GROUPS +", "biases[0 * GROUPS +"),
    "the first number of a word for all": ("word >> j % EACH * BITS", "word"),
    "a word's first lane for all": ("own * PER % EACH * BITS : 0", "0 : 0"),
    "the first word for all": ("words[j / EACH]", "words[0]"),
}


@pytest.mark.parametrize("mutant", PACKED_MUTANTS)
def test_broken_unpacking_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("packed_shares.metal", *PACKED_MUTANTS[mutant])

    def both() -> None:
        check(mx.float32, (2, 1), 64, 9, 1, (8, 32))
        check(mx.float32, (2, 1), 32, 9, 1, (4, 32))
        check(mx.float32, (2, 1), 256, 9, 1, (8, 32))

    assert_rejected(both)


def test_unsupported_inputs_have_a_reason() -> None:
    before, norms = past(mx.float32, 2, 16, 8, 1), (gain(16, mx.float32),) * 2
    qkv = random(1, 1, 8 * 16)
    assert "bfloat16" in (unsupported_reason(qkv.astype(mx.bfloat16), (4, 2), norms, before) or "")
    packed = past(mx.float32, 2, 32, 8, 1, (8, 32))
    half = qkv.astype(mx.float16)
    assert "the cache holds mlx.core.float32" in (
        unsupported_reason(half, (4, 2), norms, packed) or ""
    )
    assert unsupported_reason(random(1, 2, 8 * 16), (4, 2), norms, before) == "more than one token"
    assert (module.unsupported_dim(96) or "").startswith("head_dim 96")
    assert (module.unsupported_dim(6) or "").startswith("head_dim 6")


@pytest.mark.parametrize("dim", [8, 32, 128, 256])
@pytest.mark.parametrize("position", [0, 1, 32_000])
def test_rotation(dim: int, position: int) -> None:
    counts = mx.array([max(position - 3, 0), min(position, 3)], mx.int32)
    got = rotation.rotation(table(dim, 1e6, 1.25), counts)
    assert got.shape == (2, dim // 2)
    assert_close(got, rotation.reference(table(dim, 1e6, 1.25), position))


ROPES = [Rope(1e6), Rope(1e4, Yarn(4.0, 64)), Rope(5e6, Yarn(2.0, 128, attention_factor=0.7))]


@pytest.mark.parametrize("rope", ROPES)
def test_keys_are_turned_as_the_network_turns_them(rope: Rope) -> None:
    """The plain path's rotation, from a table instead of a base, YaRN included."""
    dim, held = 64, 300
    qkv, ones = random(1, 1, 4 * dim), mx.ones((dim,))
    before = past(mx.float32, 1, dim, held, 2)
    turns = rotation.rotation(rotation_table(dim, rope), before.counts)
    _, tail = attend(qkv, (2, 1), (ones, ones), EPS, turns, before)
    heads = qkv.reshape(1, 1, 4, dim).swapaxes(1, 2)
    plain = RotaryEmbedding(dim, rope)(mx.fast.rms_norm(heads, ones, EPS), held + 2)
    # 1e-9: the plain path computes its frequencies in float32, the table in float64
    assert_close(tail[0, :, 2], plain[0, 2:3, 0], bound=1e-9)
    assert_close(tail[1, :, 2], heads[0, 3:, 0])


ROTATION_MUTANTS = {
    "the scale forgotten": ("cos(angle) * table[HALF]", "cos(angle)"),
    "the tail's tokens not counted": ("counts[2 * seq] + counts[2 * seq + 1]", "counts[2 * seq]"),
    "sine for cosine": ("precise::cos", "precise::sin"),
    "the second half not written": ("i < HALF", "i < HALF / 2"),
}


@pytest.mark.parametrize("mutant", ROTATION_MUTANTS)
def test_a_broken_rotation_is_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("rotation.metal", *ROTATION_MUTANTS[mutant])
    assert_rejected(lambda: test_rotation(32, 32_000))


HEAD_MUTANTS = {
    "the rotation reversed": ("second ? other : -other", "second ? -other : other"),
    "the sines of the cosines": ("turns[D / 2 + (at", "turns[(at"),
    "eps forgotten": ("/ D + eps)", "/ D)"),
    "the gain of the first half for both": ("gain[at + j]", "gain[(at + j) % (D / 2)]"),
    "neighbours turned instead of halves": ("shuffle_xor(own, APART)", "shuffle_xor(own, 1)"),
}


@pytest.mark.parametrize("mutant", HEAD_MUTANTS)
def test_broken_heads_are_noticed(mutant: str, mutate: Callable[[str, str, str], None]) -> None:
    mutate("heads.metal", *HEAD_MUTANTS[mutant])
    qkv, norms = random(1, 1, 4 * 32, scale=1e-3), (gain(32, mx.float32), gain(32, mx.float32))
    before = past(mx.float32, 1, 32, 9, 1)
    turns = rotation.reference(table(32, 1e4, 1.25), 10)

    def whole() -> None:
        _, tail = attend(qkv, (2, 1), norms, EPS, turns, before)
        _, rows = reference(qkv, (2, 1), norms, EPS, turns, before)
        assert_close(tail[:, :, :2], rows)

    assert_rejected(whole)
