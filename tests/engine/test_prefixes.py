"""Which kept cache a prompt gets, which are copied, and which are dropped first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from qwen3_mlx.engine import prompt_cache
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prefixes import PrefixCounts, Prefixes, common_prefix, copied
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat
from tests import tiny
from tests.oracle import assert_close


@cache
def network() -> Qwen3Network:
    """Made by the first test: a process that has computed can't be forked (`tests.mutate`)."""
    return tiny.network(77)[0]


def ids(first: int, count: int = 40) -> list[int]:
    """A prompt that shares nothing with one of another `first`."""
    return [first, *(n * 7 % 20 for n in range(1, count))]


def holding(tokens: Sequence[int], cache_format: CacheFormat = AS_COMPUTED) -> PromptCache:
    found = PromptCache(network(), cache_format)
    if tokens:
        prefill(network(), tokens, found, chunk=64)
    return found


def store(*caches: PromptCache, limit: int = 10**9) -> Prefixes:
    found = Prefixes(lambda: PromptCache(network()), limit)
    for one in caches:
        found.add(one)
    return found


def computes_on(found: PromptCache, prompt: Sequence[int]) -> None:
    """The rest of `prompt` behind `found` has the logits of a cold start."""
    rest = prefill(network(), prompt[len(found.tokens) :], found)
    cold = prefill(network(), prompt, PromptCache(network()))
    assert rest is not None and cold is not None
    assert_close(rest, cold)


def test_an_empty_store_gives_an_empty_cache() -> None:
    kept = store(limit=123)
    assert kept.take(ids(1)).tokens == [] and kept.idle() == []
    assert kept.counts() == PrefixCounts(0, 0, 123, 0)


@pytest.mark.parametrize(("length", "common"), [(40, 20), (40, 39), (20, 16), (32, 16)])
def test_a_prompt_that_keeps_half_of_a_cache_gets_the_cache_itself(
    length: int, common: int
) -> None:
    one = holding(ids(1, length))
    kept, prompt = store(one), [*ids(1)[:common], 22, 23]
    found = kept.take(prompt)
    assert found is one and found.tokens == prompt[:common]
    assert kept.counts() == PrefixCounts(0, 0, 10**9, 0)
    computes_on(found, prompt)


def test_one_token_of_a_prompt_is_always_left_to_compute() -> None:
    assert store(holding(ids(1))).take(ids(1)).tokens == ids(1)[:-1]


@pytest.mark.parametrize("common", [16, 19])
def test_a_prompt_that_keeps_less_gets_a_copy_of_the_beginning(common: int) -> None:
    one, other = holding(ids(1)), holding(ids(2))
    kept, prompt = store(one, other), [*ids(1)[:common], 22, 23]
    found = kept.take(prompt)
    assert found is not one and found.tokens == prompt[:common]
    assert one.tokens == ids(1) and kept.idle() == [other, one], "the useful one goes last"
    computes_on(found, prompt)
    computes_on(one, [*ids(1), 5, 6])


def test_what_has_little_in_common_gets_an_empty_cache() -> None:
    one = holding(ids(1))
    kept = store(one)
    assert kept.take([*ids(1)[:15], 22, 23]).tokens == []
    assert kept.idle() == [one] and one.tokens == ids(1)
    short = store(holding(ids(1, 15)))
    assert short.take(ids(1)).tokens == [], "all of a cache, and still too little"


def test_the_cache_with_most_in_common_is_chosen() -> None:
    first, second = holding(ids(1)), holding([*ids(1)[:30], 21, 21])
    assert store(first, second).take([*ids(1)[:35], 22]) is first
    assert store(second, first).take([*ids(1)[:35], 22]) is first


def test_a_cache_in_which_somebody_computes_is_copied() -> None:
    busy, prompt = holding(ids(1)), [*ids(1), 22]
    kept = store()
    found = kept.take(prompt, [holding(ids(2)), busy])
    assert found is not busy and found.tokens == ids(1) == busy.tokens
    assert kept.idle() == [], "nor is it stored, while it is not free"
    computes_on(found, prompt)


def test_rows_that_a_window_has_dropped_are_not_copied() -> None:
    window = CacheFormat(window=64)
    for length, want in ((60, 20), (900, 0)):
        source = holding(ids(1, length), window)
        found = copied(source, 20, PromptCache(network(), window))
        assert found.tokens == ids(1, length)[:want]
        assert {layer.offset for layer in found.layers} == {want}
        assert source.tokens == ids(1, length)


def test_an_empty_cache_is_not_stored() -> None:
    kept = store(holding([]))
    assert len(kept) == 0
    kept.add(one := holding(ids(1)))
    assert len(kept) == 1 and one in kept and holding(ids(1)) not in kept
    assert kept.nbytes == one.nbytes > 0


def test_a_longer_conversation_takes_the_place_of_its_beginning() -> None:
    begun, other, longer = holding(ids(1)), holding(ids(2)), holding([*ids(1), 5, 6])
    kept = store(begun, other, longer)
    assert kept.idle() == [other, longer] and kept.evictions == 0
    branch = holding([*ids(1)[:30], 21])
    kept.add(branch)
    assert kept.idle() == [other, longer, branch]


def test_beyond_the_limit_the_least_recently_used_go() -> None:
    caches = [holding(ids(n)) for n in range(1, 5)]
    each = caches[0].nbytes
    kept = store(*caches, limit=3 * each)
    assert kept.idle() == caches[1:] and kept.counts() == PrefixCounts(3, 3 * each, 3 * each, 1)
    assert caches[0].tokens == [], "its memory is free at once"
    kept.limit = 3 * each - 1
    kept.add(holding(ids(5)))
    assert len(kept) == 2 and kept.evictions == 3
    assert store(holding(ids(1)), limit=0).counts() == PrefixCounts(0, 0, 0, 1)


def test_every_dropped_cache_is_counted() -> None:
    kept = store(holding(ids(1)), holding(ids(2)), holding(ids(3)))
    assert kept.evict() and len(kept) == 2
    kept.clear()
    assert len(kept) == 0 and kept.evictions == 3 and not kept.evict()


def test_where_prompts_diverge_is_noted_once_the_latest_last() -> None:
    kept = store(holding(ids(1)), holding(ids(2)))
    kept.take([*ids(1)[:18], 22, 22])
    kept.take([*ids(2)[:16], 22, 22])
    kept.take([*ids(1)[:18], 23, 23])
    assert list(kept.branches) == [ids(2)[:16], ids(1)[:18]]
    kept.take([*ids(1)[:15], 22, 22])
    kept.take([*ids(2), 22, 22])
    assert len(kept.branches) == 2, "too short to be shared, and no branch at all"


def test_only_the_latest_eight_branches_are_noted() -> None:
    kept = store()
    for n in range(10):
        kept.add(holding(ids(n)))
        kept.take([*ids(n)[:18], 22, 22])
    assert list(kept.branches) == [ids(n)[:18] for n in range(2, 10)]


@pytest.mark.parametrize(
    ("in_memory", "on_disk", "asked", "want"),
    [
        (0, 30, True, "disk"),
        (18, 30, True, "disk"),
        (18, 18, True, "memory"),  # reading it would have bought nothing
        (18, 0, True, "memory"),
        (19, 19, True, "memory"),
        (20, 30, False, "memory"),  # half of the prompt: what a disk could add is less
    ],
)
def test_the_disk_is_asked_where_memory_holds_less_than_half(
    in_memory: int, on_disk: int, asked: bool, want: str
) -> None:
    prompt, filled = ids(1, 41), list[PromptCache]()

    def elsewhere(tokens: Sequence[int], empty: PromptCache, beyond: int) -> None:
        assert tokens == prompt[:-1] and not empty.tokens and beyond == in_memory
        filled.append(empty)
        if on_disk:
            prefill(network(), prompt[:on_disk], empty)

    kept = store(holding([*prompt[:in_memory], *[21] * 30]))
    kept.elsewhere = elsewhere
    found = kept.take(prompt)
    assert bool(filled) == asked and (found in filled) == (want == "disk")
    assert len(found.tokens) == (on_disk if want == "disk" else in_memory)
    assert len(kept) == 1


def test_a_new_server_asks_the_disk_for_the_shortest_prompt() -> None:
    def elsewhere(tokens: Sequence[int], empty: PromptCache, _beyond: int) -> None:
        prefill(network(), tokens, empty)

    kept = store()
    kept.elsewhere = elsewhere
    assert kept.take(ids(1, 2)).tokens == [1]


class Counted(list[int]):
    """Tokens that count how often a single one of them is read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += not isinstance(index, slice)
        return super().__getitem__(index)


@pytest.mark.parametrize("where", [0, 511, 512, 513, 20_000])
def test_long_beginnings_are_compared_in_blocks(where: int) -> None:
    """Token by token, each request would wait for as many comparisons as each cache has tokens."""
    one = Counted([1] * where + [2] * 700)
    assert common_prefix(one, [1] * where + [3] * 800) == where
    assert one.reads <= 512


class Step:
    """Stands for a fused step, whose making and tracing take as long as some tokens."""

    def __init__(self) -> None:
        self.fault = ""

    @staticmethod
    def make_cache() -> list[KVCache]:
        return network().make_cache()


def test_all_conversations_share_one_fused_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache.FusedStep, "if_available", lambda *_: Step())
    prefixes = store()
    first, second = prefixes.take(ids(1)), prefixes.take(ids(2))
    assert first.step is second.step is not None
    assert first is not second and first.layers is not second.layers and first.tokens == []
    prefill(network(), ids(1), first)
    assert second.tokens == [] and second.layers[0].offset == 0
    computes_on(prefixes.take([*ids(1)[:30], 3], [first]), [*ids(1)[:30], 3])

    prefixes.add(first)
    prefixes.renew()
    assert prefixes.idle()[0].step is prefixes.take(ids(3)).step is not second.step, "today's"


def test_a_step_that_failed_is_given_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache.FusedStep, "if_available", lambda *_: Step())
    prefixes = store()
    failed: Any = prefixes.take(ids(1)).step
    failed.fault = "a device error"
    assert prefixes.take(ids(2)).step is prefixes.take(ids(3)).step is not failed
