"""Computed prompts on disk: a file serves a prompt that shares only its beginning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import pytest

from qwen3_mlx.chat import prompt_store
from qwen3_mlx.chat.prompt_store import SHARE, SHORTEST, PromptStore
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.model import Qwen3
from tests.chat.test_prompt_store import files, kept
from tests.oracle import assert_close


@pytest.mark.parametrize("shared", [1.0, 0.6])
def test_a_prompt_that_shares_only_its_beginning_gets_that(
    demo: Qwen3, store: PromptStore, shared: float
) -> None:
    """The same question after a restart, whose answer is in the file; or another one."""
    whole = kept(demo, store)
    count = int(shared * len(whole)) - 5
    prompt = [*whole[:count], 100, 101, 102]
    cache = PromptCache(demo.network)
    assert store.restore(demo.runtime, prompt, cache) == "" and cache.tokens == whole[:count]
    assert {layer.offset for layer in cache.layers} == {count}
    here = prefill(demo.network, prompt[count:], cache)
    assert_close(here, prefill(demo.network, prompt, PromptCache(demo.network)))
    again = PromptCache(demo.network)  # the file itself is whole
    store.restore(demo.runtime, whole, again)
    assert again.tokens == whole


def test_a_part_of_a_file_takes_the_memory_of_that_part(demo: Qwen3, store: PromptStore) -> None:
    whole = kept(demo, store)
    count = len(whole) // 2
    cache = PromptCache(demo.network)
    store.restore(demo.runtime, [*whole[:count], 100], cache)
    assert {layer.state[0].shape[2] for layer in cache.layers} == {count}


def test_what_is_at_hand_is_not_read_from_the_disk(
    demo: Qwen3, store: PromptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new conversation with a known system prompt read a whole old one each time."""
    whole, loads = kept(demo, store), list[Path]()
    load_file = prompt_store._load
    monkeypatch.setattr(
        prompt_store, "_load", lambda file, *rest: (loads.append(file), load_file(file, *rest))[1]
    )
    for beyond, found in ((60, 0), (59, 60)):
        cache = PromptCache(demo.network)
        store.restore(demo.runtime, [*whole[:60], 100, 101], cache, beyond)
        assert len(cache.tokens) == found == 60 * len(loads)


def test_ids_are_read_once_a_file_and_forgotten_with_it(demo: Qwen3, store: PromptStore) -> None:
    whole = kept(demo, store)
    for _ in range(3):
        store.restore(demo.runtime, [*whole[:60], 100], PromptCache(demo.network))
        assert len(store._ids) == 1
    files(store)[0].unlink()
    store.restore(demo.runtime, [*whole[:60], 100], PromptCache(demo.network))
    assert store._ids == {}


def test_a_file_larger_than_the_free_memory_is_left(
    demo: Qwen3, store: PromptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutOfMemoryError("no room")

    whole = kept(demo, store)
    monkeypatch.setattr(prompt_store, "require", full)
    cache = PromptCache(demo.network)
    assert store.restore(demo.runtime, [*whole, 100], cache) == "" and cache.tokens == []
    assert files(store)


def test_a_small_part_of_a_file_is_not_worth_reading_it(demo: Qwen3, store: PromptStore) -> None:
    whole = kept(demo, store)
    least = max(SHORTEST, math.ceil(SHARE * len(whole)))
    for count, found in ((least, least), (least - 1, 0)):
        cache = PromptCache(demo.network)
        store.restore(demo.runtime, [*whole[:count], 100, 101], cache)
        assert len(cache.tokens) == found


def test_the_file_with_most_in_common_is_taken(demo: Qwen3, store: PromptStore) -> None:
    whole = kept(demo, store)
    prompts = [[*whole[:count], *range(100, 140)] for count in (60, 50, 70)]
    for prompt in prompts:
        cache = PromptCache(demo.network)
        prefill(demo.network, prompt, cache)
        store.save(demo.runtime, prompt, cache)
    for prompt in prompts:
        cache = PromptCache(demo.network)
        store.restore(demo.runtime, [*prompt[:-1], 99], cache)
        assert cache.tokens == prompt[:-1]
