"""What a conversation's cache holds is what its layers hold."""

from __future__ import annotations

from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import pytest

from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from tests import tiny


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
