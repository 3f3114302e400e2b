"""The cache: chunks, single tokens and trims in any order equal one forward pass.

Where a chunk is cut changes the order of no sum over more than the keys of one row, so the
comparer's own float32 bound holds everywhere here.
"""

from __future__ import annotations

import random
from itertools import pairwise

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.quantized import QuantizedCache
from qwen3_mlx.nn.cache.windowed import RotatingCache
from qwen3_mlx.nn.transformer import Qwen3Network
from tests.checkpoints import GOLDEN, expected
from tests.oracle import assert_close, nmse

SEVERAL = ["gqa-5", "yarn-dense-old", "yarn-moe-old", "moe-norm", "moe-sparse-step-2"]


def load(name: str) -> tuple[Qwen3Network, mx.array, mx.array]:
    """Return the network, tokens [2, L] and its logits [2, L, V] from one forward."""
    network, _ = load_network(GOLDEN / name)
    tokens, _ = expected(name)
    return network, tokens, network(tokens)


def feed(network: Qwen3Network, tokens: mx.array, cache: list[KVCache], *cuts: int) -> mx.array:
    """Return the logits of `tokens` fed in pieces that end at `cuts`."""
    length = tokens.shape[1]
    edges = [0, *cuts, length]
    parts = [network(tokens[:, a:b], cache) for a, b in pairwise(edges) if a < b]
    return mx.concatenate(parts, axis=1)


def chunks(length: int, size: int) -> range:
    return range(size, length, size)


def offsets(cache: list[KVCache]) -> set[int]:
    return {layer.offset for layer in cache}


@pytest.mark.parametrize("size", range(1, 21))
def test_every_chunk_size_equals_one_forward(size: int) -> None:
    network, tokens, want = load("dense-tied")
    assert tokens.shape[1] == 20
    cache = network.make_cache()
    assert_close(feed(network, tokens, cache, *chunks(20, size)), want)
    assert offsets(cache) == {20}


@pytest.mark.parametrize("size", [1, 2, 7, 32, 79])
@pytest.mark.parametrize("name", SEVERAL)
def test_chunks_equal_one_forward_in_other_networks(name: str, size: int) -> None:
    network, tokens, want = load(name)
    got = feed(network, tokens, network.make_cache(), *chunks(tokens.shape[1], size))
    assert_close(got, want)


@pytest.mark.parametrize("name", SEVERAL)
def test_prefill_in_chunks_then_decode(name: str) -> None:
    network, tokens, want = load(name)
    length = tokens.shape[1]
    got = feed(network, tokens, network.make_cache(), 5, 9, *range(10, length))
    assert_close(got, want)


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("n", [1, 2, 6, 20])
def test_trim_and_feed_again(name: str, n: int) -> None:
    network, tokens, want = load(name)
    tokens, want = tokens[:, :20], want[:, :20]
    cache = network.make_cache()
    feed(network, tokens, cache, 13)
    assert [layer.trim(n) for layer in cache] == [n] * len(cache)
    assert offsets(cache) == {20 - n}
    got = feed(network, tokens[:, 20 - n :], cache, n // 2)
    assert_close(got, want[:, 20 - n :])


@pytest.mark.parametrize("name", SEVERAL)
def test_after_a_trim_other_tokens_see_nothing_of_the_old(name: str) -> None:
    network, tokens, _ = load(name)
    length = tokens.shape[1]
    other = (tokens + 1) % 90
    cache = network.make_cache()
    feed(network, tokens, cache)
    for layer in cache:
        layer.trim(length - 8)
    mixed = mx.concatenate([tokens[:, :8], other[:, 8:14]], axis=1)
    want = network(mixed)[:, 8:]
    assert_close(network(other[:, 8:14], cache), want)
    assert nmse(network(tokens)[:, 8:14], want) > 1e-6  # the test would see the old tokens


def test_trim_and_decode_over_and_over() -> None:
    network, tokens, want = load("dense-untied")
    cache = network.make_cache()
    network(tokens[:, :4], cache)
    for at in range(4, 18):  # take two tokens, give one back
        assert_close(network(tokens[:, at : at + 2], cache), want[:, at : at + 2])
        for layer in cache:
            layer.trim(1)
    assert offsets(cache) == {18}


@pytest.mark.parametrize("step", [1, 2, 7, 16])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_blocks_of_any_size(step: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KVCache, "step", step)
    network, tokens, want = load("gqa-5")
    cache = network.make_cache()
    assert_close(feed(network, tokens, cache, *chunks(20, size)), want)
    for layer in cache:
        layer.trim(11)
    assert_close(feed(network, tokens[:, 9:], cache, *chunks(11, size)), want[:, 9:])


def rows(start: int, count: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Return [2, 3, count, 4] whose value at a position is the position, from `start`."""
    positions = mx.arange(start, start + count).astype(dtype)
    return mx.broadcast_to(positions[None, None, :, None], (2, 3, count, 4))


def test_what_is_fetched_is_what_was_put_in_and_stays_so() -> None:
    cache, seen = KVCache(), []
    for start, count in pairwise([0, 1, 6, 7, 255, 256, 257, 300, 1200]):
        keys, values = cache.update_and_fetch(
            rows(start, count - start), -rows(start, count - start)
        )
        seen.append((keys, values))
        assert cache.offset == count
    for keys, values in seen:
        assert mx.array_equal(keys, rows(0, keys.shape[2]))
        assert mx.array_equal(values, -rows(0, keys.shape[2]))


def test_trim_returns_what_there_was_to_forget() -> None:
    cache = KVCache()
    assert cache.trim(3) == 0
    cache.update_and_fetch(rows(0, 5), rows(0, 5))
    assert [cache.trim(n) for n in (0, -2, 2, 10, 1)] == [0, 0, 2, 3, 0]
    assert cache.offset == 0
    keys, _ = cache.update_and_fetch(rows(7, 2), rows(7, 2))
    assert mx.array_equal(keys, rows(7, 2))


def test_state_and_bytes() -> None:
    cache = KVCache()
    assert list(cache.state) == []
    assert cache.nbytes == 0
    cache.update_and_fetch(rows(0, 3, mx.float16), rows(0, 3, mx.float16))
    mx.eval(cache.state)
    assert cache.nbytes == sum(part.nbytes for part in cache.state)
    assert cache.nbytes >= 2 * 2 * 3 * 3 * 4 * 2  # both, [2, 3, 3, 4], two bytes each
    assert {part.dtype for part in cache.state} == {mx.float16}


def test_a_long_cache_wastes_little_and_copies_seldom() -> None:
    cache, sizes = KVCache(), set()
    for at in range(5000):
        cache.update_and_fetch(mx.zeros((1, 1, 1, 2)), mx.zeros((1, 1, 1, 2)))
        if at % 50 == 0:
            mx.eval(cache.state)
        sizes.add(cache.nbytes)
        used = 2 * (at + 1) * 2 * 4
        assert cache.nbytes <= 2 * used + 2 * KVCache.step * 2 * 4
    assert len(sizes) <= 12


def test_layers_do_not_share_a_cache() -> None:
    network, tokens, want = load("dense-tied")
    cache = network.make_cache()
    assert len({id(layer) for layer in cache}) == len(network.layers) == len(cache)
    assert_close(network(tokens, network.make_cache()), want)
    assert offsets(cache) == {0}


@pytest.mark.parametrize(
    "cache", [KVCache(), KVCache(700), QuantizedCache(8, 32), RotatingCache(300, 4)], ids=type
)
def test_a_cache_says_when_its_next_step_copies_it(cache: KVCache) -> None:
    assert not cache.grows(1), "the first buffers copy nothing"
    draw = random.Random(0)
    found = 0
    for _ in range(700):
        new = draw.choice([1, 1, 1, 3])
        rows = mx.zeros((1, 2, new, 64))
        before, foreseen = cache.state, cache.grows(new)
        shape = before[0].shape if before else None
        cache.attend(mx.zeros((1, 4, new, 64)), rows, rows, 0.125)
        mx.eval(cache.state)
        copied = shape is not None and cache.state[0].shape != shape
        assert foreseen >= copied, cache.offset
        assert foreseen == copied or isinstance(cache, RotatingCache)
        found += foreseen
    assert 2 <= found <= 12


@pytest.mark.parametrize(
    ("held", "limit", "even"),
    [
        (1, None, 512), (256, None, 512), (512, None, 512), (513, None, 1024), (1024, None, 1024),
        (1025, None, 2048), (2560, None, 4096), (300, 1000, 512), (600, 1000, 1024),
        (600, 700, 768), (100, 200, 256), (1500, 1100, 1536),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bits", [None, 8])
def test_capacities_are_rounded_to_few(
    held: int, limit: int | None, even: int, bits: int | None
) -> None:
    """Never beyond the context's whole blocks, unless the cache is larger already."""
    cache = KVCache(limit) if bits is None else QuantizedCache(bits, 32, limit)
    draw = mx.random.normal((1, 2, held, 64))
    cache.append(draw, 2 * draw)
    assert (cache.capacity, cache.even_capacity()) == (-(-held // 256) * 256, even)
    kept = cache.stored(held)
    cache.reserve(even)
    assert cache.capacity == cache.even_capacity() == even and cache.offset == held
    for name, array in cache.stored(held).items():
        assert mx.array_equal(array, kept[name]).item(), name
    row = mx.ones((1, 2, 1, 64))
    cache.append(row, row)
    assert cache.offset == held + 1
    assert all(mx.all(mx.isfinite(array)).item() for array in cache.stored(held + 1).values())


def test_a_capacity_that_is_no_whole_block_is_rounded_too() -> None:
    cache = KVCache()
    cache.restore({"keys": mx.ones((1, 2, 250, 64)), "values": mx.ones((1, 2, 250, 64))}, 250)
    assert cache.even_capacity() == 512
