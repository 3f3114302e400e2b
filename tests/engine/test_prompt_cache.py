"""What a conversation's cache holds is what its layers hold."""

from __future__ import annotations

from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import pytest

from qwen3_mlx.engine import prompt_cache
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.options import CacheFormat
from tests import tiny
from tests.oracle import assert_close


class Stuck:
    """A layer that can't be trimmed to where it says it can: a step has moved its window."""

    offset = 5

    def reach(self, length: int) -> int:
        return length

    def trim(self, n: int) -> int:
        return 0


def read(tokens: list[int]) -> PromptCache:
    network, _ = tiny.network(77)
    cache = PromptCache(network)
    prefill(network, tokens, cache)
    return cache


@pytest.mark.parametrize("length", [0, 1, 4])
def test_layers_that_can_not_be_trimmed_leave_an_empty_cache(length: int) -> None:
    cache = read([1, 2, 3, 4, 5])
    stuck: Any = Stuck()
    cache.layers[0] = stuck
    assert cache.truncate(length) == 0
    assert cache.tokens == [] and [layer.offset for layer in cache.layers] == [0] * len(
        cache.layers
    )


@pytest.mark.parametrize("length", [0, 1, 4, 5])
def test_tokens_and_layers_are_cut_alike(length: int) -> None:
    cache = read([1, 2, 3, 4, 5])
    assert cache.truncate(length) == length
    assert cache.tokens == [1, 2, 3, 4, 5][:length]
    assert {layer.offset for layer in cache.layers} == {length}


def capacities(cache: PromptCache) -> set[int]:
    return {layer.capacity for layer in cache.layers}


def test_buffers_are_rounded_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, asked = read([1, 2, 3]), list[int]()
    monkeypatch.setattr(prompt_cache, "require", lambda nbytes, *_: asked.append(nbytes))
    held = cache.nbytes
    for _ in range(3):
        cache.round_up()
    assert capacities(cache) == {512} and asked == [held], "as many bytes more as they had"
    assert cache.tokens == [1, 2, 3] and cache.layers[0].offset == 3
    again = prefill(cache.network, [4], cache)
    whole = prefill(cache.network, [1, 2, 3, 4], PromptCache(cache.network))
    assert again is not None and whole is not None
    assert_close(again, whole)


def test_they_stay_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, asked = read([1, 2, 3]), list[int]()

    def refuse(nbytes: int, *_: Any) -> None:
        asked.append(nbytes)
        raise OutOfMemoryError("no")

    monkeypatch.setattr(prompt_cache, "require", refuse)
    for _ in range(3):
        cache.round_up()
    assert capacities(cache) == {256} and len(asked) == 1, "asked once, not in every step"
    monkeypatch.setattr(prompt_cache, "require", lambda *_: None)
    prefill(cache.network, [n % 20 for n in range(600)], cache)
    assert capacities(cache) == {768}
    cache.round_up()
    assert capacities(cache) == {1024}, "a larger one is tried again"


def test_an_empty_cache_and_a_window_are_not_rounded() -> None:
    network, _ = tiny.network(77)
    empty, window = PromptCache(network), PromptCache(network, CacheFormat(window=64))
    prefill(network, [1, 2, 3], window)
    before = capacities(window)
    for cache in (empty, window):
        cache.round_up()
    assert capacities(empty) == {0} and capacities(window) == before
