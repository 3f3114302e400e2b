"""Idle work on a conversation that goes on before it is done: the cache keeps the later turn."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.task import Task
from tests.engine.test_scheduler import PROMPT, a_task, heard, run, scheduler_of

FURTHER = [n * 3 % 20 + 1 for n in range(40)]


def first_turn() -> Task:
    """Its known next beginning goes on behind its prompt."""
    task = a_task(PROMPT, length=4, lasting=lambda: [*PROMPT, 2])
    task.sequence.end("stop")
    return task


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens that idle work computes."""
    found = list[int]()

    def counted(network: Any, ids: list[int], cache: PromptCache, size: int) -> None:
        found.extend(ids)
        prefill(network, ids, cache, size)

    monkeypatch.setattr("qwen3_mlx.engine.idle.prefill", counted)
    return found


@pytest.mark.parametrize("how", ["left", "long", "ended"])
def test_what_a_later_turn_has_read_stays(how: str, computed: list[int]) -> None:
    """It begins before any idle work; then it is left, is cut at its length, or ends by itself."""
    first = first_turn()
    scheduler = scheduler_of(first)
    run(scheduler)
    assert scheduler.counts.ended == {"stop": 1} and not computed
    second = a_task([*PROMPT, 2, *FURTHER], length=9, lasting=lambda: [*PROMPT, 2, *FURTHER, 7])
    if how == "ended":
        second.sequence.end("stop")
    scheduler.submit(second)
    run(scheduler, lambda: second.decoder is not None or heard(second).ends)
    if how == "left":
        second.sequence.control.interrupt("stop")
    run(scheduler)
    (cache,) = scheduler.prefixes.idle()
    left = list(cache.tokens)
    assert len(left) > len(second.prompt)
    while scheduler.round():
        pass
    assert cache.tokens == ([*second.prompt, 7] if how == "ended" else left)
    assert computed == ([7] if how == "ended" else [])


def test_a_cache_that_is_stored_no_longer_is_held_no_longer() -> None:
    first = first_turn()
    scheduler = scheduler_of(first)
    run(scheduler)
    (cache,) = scheduler.prefixes.idle()
    gone = weakref.ref(cache)
    scheduler.prefixes.evict()
    del cache, first
    scheduler.submit(a_task([3, *PROMPT], length=9))
    run(scheduler, lambda: scheduler.running)
    gc.collect()
    assert gone() is None
