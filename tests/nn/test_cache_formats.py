"""Keys and values kept in 8 or 4 bits, and in a window: against attention written out.

The reference unpacks every row, or masks the whole score matrix, and takes a plain softmax over
all of it at once in float32.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.nn import softmax_attention
from qwen3_mlx.nn.cache import windowed
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.quantized import QuantizedCache
from qwen3_mlx.nn.cache.windowed import RotatingCache
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat
from tests import tiny
from tests.oracle import assert_close, nmse


def softmax_over_all(
    q: mx.array, k: mx.array, v: mx.array, window: softmax_attention.Window | None = None
) -> mx.array:
    """Causal attention of the last L of S positions, the whole [L, S] at once."""
    heads, queries, dim = q.shape[1:]
    rows = k.shape[2]
    k, v = (mx.repeat(t, heads // t.shape[1], axis=1) for t in (k, v))
    scores = (q @ k.swapaxes(-1, -2)) * dim**-0.5
    key, query = mx.arange(rows), mx.arange(rows - queries, rows)[:, None]
    seen = key <= query
    if window is not None:
        seen = seen & ((key < window.sinks) | (query - key < window.size))
    return mx.softmax(mx.where(seen, scores, -mx.inf), axis=-1) @ v


def draw(heads: int, length: int, dim: int, batch: int = 1) -> mx.array:
    return mx.random.normal((batch, heads, length, dim))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 rows, the smallest there are."""
    monkeypatch.setattr(softmax_attention, "SCORES", 1)


@pytest.mark.parametrize("queries", [1, 5, 64, 200])
@pytest.mark.parametrize(
    "window", [None, softmax_attention.Window(70, 4), softmax_attention.Window(100, 0)]
)
@pytest.mark.parametrize("heads", [(4, 2), (3, 3)])
def test_tiles_are_one_softmax(
    queries: int, window: softmax_attention.Window | None, heads: tuple[int, int], small_tiles: None
) -> None:
    mx.random.seed(queries)
    q, k, v = draw(heads[0], queries, 64, 2), draw(heads[1], 200, 64, 2), draw(heads[1], 200, 64, 2)
    got = softmax_attention.attention(
        3 * q, lambda a, b: (k[..., a:b, :], v[..., a:b, :]), 200, 64**-0.5, window
    )
    assert_close(got, softmax_over_all(3 * q, k, v, window))


@pytest.fixture
def composes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Attention is composed here as on CUDA; the queries of each time that it is."""
    found: list[int] = []
    composed = softmax_attention.composed

    def noted(q: mx.array, *args: Any) -> mx.array:
        found.append(q.shape[2])
        return composed(q, *args)

    monkeypatch.setattr(softmax_attention, "composed", noted)
    monkeypatch.setattr(softmax_attention, "COMPOSED_SCORES", {backend.device(): 2**27})
    monkeypatch.setattr(softmax_attention, "SCORES", 2**40)
    return found


@pytest.mark.parametrize("queries", [4, 31, 150])
@pytest.mark.parametrize("window", [None, softmax_attention.Window(70, 4)])
@pytest.mark.parametrize("heads", [(4, 2), (3, 3)])
@pytest.mark.parametrize("dtype, bound", [(mx.float32, 1e-11), (mx.bfloat16, 1e-5)])
def test_composed_attention_is_softmax_attention(
    queries: int,
    window: softmax_attention.Window | None,
    heads: tuple[int, int],
    dtype: mx.Dtype,
    bound: float,
    composes: list[int],
) -> None:
    mx.random.seed(queries)
    q, k, v = (
        draw(n, rows, 64, 2).astype(dtype)
        for n, rows in ((heads[0], queries), (heads[1], 150), (heads[1], 150))
    )
    got = softmax_attention.attention(
        q, lambda a, b: (k[..., a:b, :], v[..., a:b, :]), 150, 64**-0.5, window
    )
    wide = (t.astype(mx.float32) for t in (q, k, v))
    assert got.dtype == dtype and composes == [queries]
    # bfloat16: weights and results are rounded, scores aren't
    assert_close(got, softmax_over_all(*wide, window), bound=bound)


def test_one_token_and_many_scores_are_left_to_mlx(composes: list[int]) -> None:
    for queries, rows in ((1, 50), (3, 50), (4, 50), (600, 60_000)):
        q, k = mx.zeros((1, 1, queries, 64)), mx.zeros((1, 1, rows, 64))
        softmax_attention.attention(q, lambda a, b, k=k: (k, k), rows, 1.0)  # lazy
    assert composes == [4]


def test_tiles_are_as_right_in_bfloat16(small_tiles: None) -> None:
    q, k, v = (draw(h, 150, 128).astype(mx.bfloat16) for h in (4, 2, 2))
    got = softmax_attention.attention(
        q, lambda a, b: (k[..., a:b, :], v[..., a:b, :]), 150, 128**-0.5
    )
    want = softmax_over_all(*(t.astype(mx.float32) for t in (q, k, v)))
    # Scores and weights are rounded to bfloat16 on their way, three roundings in all.
    assert_close(got, want, bound=3e-5)


@pytest.mark.parametrize("dim", [32, 64, 128])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("cuts", [(0, 90), (0, 1, 2, 40, 41, 90), (0, 64, 89, 90)])
def test_packed_attention_is_that_of_the_unpacked_rows(
    bits: int, dim: int, cuts: tuple[int, ...], small_tiles: None
) -> None:
    mx.random.seed(bits + dim)
    q, k, v = draw(6, 90, dim), draw(2, 90, dim), draw(2, 90, dim)
    group = CacheFormat(bits).group(dim)
    cache = QuantizedCache(bits, group)
    parts = [
        cache.attend(*(t[..., a:b, :] for t in (q, k, v)), dim**-0.5) for a, b in pairwise(cuts)
    ]
    rounded = [mx.dequantize(*mx.quantize(t, group, bits), group, bits) for t in (k, v)]
    assert_close(mx.concatenate(parts, axis=2), softmax_over_all(q, *rounded))
    for got, want in zip(cache.rows(0, 90), rounded, strict=True):
        assert mx.array_equal(got, want)
    assert nmse(rounded[0], k) < (1e-4 if bits == 8 else 2e-2)


@pytest.mark.parametrize("bits", [8, 4])
def test_packed_decode_with_the_unused_rows(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: rows that were trimmed, or never used, weigh nothing."""
    mx.random.seed(bits)
    q, k, v = draw(6, 60, 64), draw(2, 60, 64), draw(2, 60, 64)
    cache = QuantizedCache(bits, 64)
    cache.append(100 * k, 100 * v)
    cache.trim(60)
    cache.append(k[..., :39, :], v[..., :39, :])
    monkeypatch.setattr("qwen3_mlx.nn.cache.quantized.backend.device", lambda: "cuda")
    got = cache.attend(*(t[..., 39:40, :] for t in (q, k, v)), 64**-0.5)
    assert cache.capacity == 256
    want = softmax_over_all(q[..., 39:40, :], *cache.rows(0, 40))
    assert_close(got, want)


@pytest.mark.parametrize("bits", [8, 4])
def test_packed_decode_in_bfloat16(bits: int) -> None:
    """What a GPU computes: the scores rounded once, the weights once, the sum once."""
    mx.random.seed(7)
    q, k, v = (draw(h, 70, 128).astype(mx.bfloat16) for h in (8, 2, 2))
    cache = QuantizedCache(bits, 64)
    cache.append(k[..., :69, :], v[..., :69, :])
    got = cache.attend(*(t[..., 69:, :] for t in (q, k, v)), 128**-0.5)
    rounded = [t.astype(mx.float32) for t in cache.rows(0, 70)]
    # MLX's CPU sums in bfloat16 here (docs/design.md: no reference); a float32 sum gives 1e-5.
    assert_close(got, softmax_over_all(q[..., 69:, :].astype(mx.float32), *rounded), bound=1e-3)


def test_bytes_are_those_of_the_packing() -> None:
    for bits, of_bf16 in ((8, 8.5 / 16), (4, 4.5 / 16)):
        cache, plain = QuantizedCache(bits, 64), KVCache()
        rows = draw(2, 256, 128).astype(mx.bfloat16)
        cache.append(rows, rows)
        plain.update_and_fetch(rows, rows)
        assert cache.nbytes == of_bf16 * plain.nbytes


@pytest.mark.parametrize("cuts", [(0, 300), (0, 1, 37, 200, 300), (0, 290, *range(291, 301))])
@pytest.mark.parametrize("sinks", [0, 4])
def test_a_window_is_a_mask_whatever_the_chunks(
    cuts: tuple[int, ...], sinks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RotatingCache, "step", 8)
    monkeypatch.setattr(windowed, "MARGIN", 3)
    mx.random.seed(3)
    q, k, v = draw(4, 300, 32), draw(2, 300, 32), draw(2, 300, 32)
    cache = RotatingCache(64, sinks)
    parts = [
        cache.attend(*(t[..., a:b, :] for t in (q, k, v)), 32**-0.5) for a, b in pairwise(cuts)
    ]
    want = softmax_over_all(q, k, v, softmax_attention.Window(64, sinks))
    assert_close(mx.concatenate(parts, axis=2), want)
    assert nmse(softmax_over_all(q, k, v), want) > 1e-3  # the window is felt


def test_a_window_s_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = RotatingCache(128, 4)
    sizes = []
    for at in range(3000):
        cache.attend(draw(1, 1, 8), draw(1, 1, 8), draw(1, 1, 8), 1.0)
        if at % 100 == 0:
            mx.eval(cache.state)
        sizes.append(cache.nbytes)
    rows = 4 + 128 + windowed.MARGIN + 2 * RotatingCache.step
    assert max(sizes) <= 2 * 4 * 8 * (rows + RotatingCache.step)
    assert len(set(sizes[1500:])) <= 2


KINDS: dict[str, dict[str, Any]] = {
    "computed": {},
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4},
    "window": {"window": 64, "sinks": 2},
}


def network() -> Qwen3Network:
    return tiny.network(5, head_dim=32, vocab_size=50)[0]


def logits(net: Qwen3Network, tokens: mx.array, cache: list[KVCache], *cuts: int) -> mx.array:
    edges = [0, *cuts, tokens.shape[1]]
    return mx.concatenate([net(tokens[:, a:b], cache) for a, b in pairwise(edges) if a < b], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_trim_and_feed_again_equals_a_cold_start(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KVCache, "step", 16)
    net, cache_format = network(), CacheFormat(**KINDS[kind])
    tokens = mx.random.randint(0, 50, (1, 230), key=mx.random.key(0))
    want = logits(net, tokens, net.make_cache(cache_format), 100)
    cache = net.make_cache(cache_format)
    logits(net, tokens[:, :150], cache, 40)
    for layer in cache:
        layer.mark()
    other = (tokens[:, 150:] + 1) % 50
    logits(net, other, cache, *range(1, 80))  # 80 tokens that will be taken back
    kept_tokens = min(layer.reach(150) for layer in cache)
    assert kept_tokens == 150
    assert [layer.trim(layer.offset - 150) for layer in cache] == [80] * len(cache)
    # One sum over the keys is taken in another order: float32's bound holds.
    assert_close(logits(net, tokens[:, 150:], cache, 7, 8), want[:, 150:])


def test_a_window_that_is_gone_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KVCache, "step", 16)
    net = network()
    tokens = mx.random.randint(0, 50, (1, 230), key=mx.random.key(1))
    cache = net.make_cache(CacheFormat(window=64))
    logits(net, tokens, cache, 100, *range(101, 230))
    assert {layer.reach(120) for layer in cache} == {0}
    assert {layer.reach(230) for layer in cache} == {230}
    assert {layer.reach(230 - windowed.MARGIN) for layer in cache} == {230 - windowed.MARGIN}
    for length in range(231 - 64, 230):
        found = {layer.reach(length) for layer in cache}
        assert found in ({length}, {0})
        if found == {length}:
            break
    window = CacheFormat(window=64)
    again = net.make_cache(window)  # the furthest it says it can go back, its window is whole
    logits(net, tokens, again, 100, *range(101, 230))
    assert {layer.trim(230 - length) for layer in again} == {230 - length}
    want = logits(net, tokens, net.make_cache(window))
    assert_close(logits(net, tokens[:, length:], again), want[:, length:])
    assert {layer.trim(110) for layer in cache} == {230}
    assert_close(logits(net, tokens, cache, 50), want)


def test_what_a_mark_keeps_ends_where_other_tokens_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back into the window by a short trim, other tokens, back to the mark: none of the old."""
    monkeypatch.setattr(KVCache, "step", 16)
    net, cache_format = network(), CacheFormat(window=64)
    tokens = mx.random.randint(0, 50, (1, 260), key=mx.random.key(2))
    other = (tokens + 7) % 50
    cache = net.make_cache(cache_format)
    logits(net, tokens[:, :104], cache)
    for layer in cache:
        layer.mark()
    logits(net, tokens[:, 104:125], cache, *range(1, 21))  # drops rows: the mark keeps up to 116
    for layer in cache:
        layer.trim(layer.offset - 110)
    logits(net, other[:, 110:260], cache, *range(1, 150))
    length = min(layer.reach(114) for layer in cache)
    assert length == 110
    for layer in cache:
        layer.trim(layer.offset - length)
    mixed = mx.concatenate([tokens[:, :length], other[:, length:180]], axis=1)
    want = logits(net, mixed, net.make_cache(cache_format))[:, length:]
    assert_close(logits(net, other[:, length:180], cache), want)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_begins_again(kind: str) -> None:
    net, cache_format = network(), CacheFormat(**KINDS[kind])
    tokens = mx.random.randint(0, 50, (1, 160), key=mx.random.key(3))
    first = net.make_cache(cache_format)
    want = logits(net, tokens, first, 150)
    second = net.make_cache(cache_format)
    for old, new in zip(first, second, strict=True):
        arrays = old.stored(150)
        assert set(arrays) == set(new.parts)
        new.restore(arrays, 150)
    assert_close(logits(net, tokens[:, 150:], second), want[:, 150:])


@pytest.mark.parametrize("limit", [None, 5000, 25_000])
def test_rows_are_copied_once_a_doubling(limit: int | None) -> None:
    """From 256 rows to 32,768 seven copies; and no rows beyond the limit."""
    cache, sizes = KVCache(limit), []
    for _ in range(0, limit or 32_000, 50):
        cache.update_and_fetch(mx.zeros((1, 1, 50, 2)), mx.zeros((1, 1, 50, 2)))
        assert cache.keys is not None
        sizes.append(cache.keys.shape[2])
    distinct = sorted(set(sizes))
    growths = list(pairwise(distinct))
    if limit is not None:
        growths.pop()  # the last one ends at the limit
        assert distinct[-1] == -(-limit // KVCache.step) * KVCache.step
    assert growths and all(after == 2 * before for before, after in growths)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"bits": 5}, "8 or 4"),
        ({"window": 10}, "64 to 2"),
        ({"window": 2**31}, "64 to 2"),
        ({"window": 100, "sinks": -1}, "0 to 1024"),
        ({"bits": 8, "window": 100}, "don't go together"),
    ],
)
def test_what_can_t_be_kept_so(given: dict[str, int], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        CacheFormat(**given)


def test_heads_that_groups_do_not_divide() -> None:
    assert [CacheFormat(8).group(dim) for dim in (128, 96, 64, 32)] == [64, 32, 64, 32]
    with pytest.raises(OptionError, match="head_dim 16"):
        tiny.network(0)[0].make_cache(CacheFormat(bits=8))
