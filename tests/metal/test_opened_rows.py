"""What a step of rows leaves to the next: the caches' arrays, until any of them changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.metal import attend, layer
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.nn.cache import tailed
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.fused_rows import FusedRows
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED
from tests.metal.test_fused_rows import filled, network_of
from tests.oracle import assert_close

Caches = list[KVCache]


@pytest.fixture(autouse=True)
def short_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "TAIL", 6)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences' layers were asked for their arrays."""
    found: list[int] = []
    open_layer = tailed._open_layer

    def noted(caches: Any, new: Any) -> Any:
        found.append(len(caches))
        return open_layer(caches, new)

    monkeypatch.setattr(tailed, "_open_layer", noted)
    return found


def tokens_of(count: int) -> mx.array:
    return mx.array([[(5 * row) % 24] for row in range(count)], mx.uint32)


def trim(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    for one in cache:
        one.trim(1)
    return cache


def trim_far(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    """Into the buffers, where the tail holds fewer."""
    for one in cache:
        one.trim(min(one.offset - 1, 4))
    return cache


def prefill(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    network(mx.array([[3, 4]], mx.uint32), cache)
    return cache


def step_alone(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    steps(mx.array([[7]], mx.uint32), cache)
    return cache


def store(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    mx.eval([one.stored(one.offset) for one in cache])
    return cache


def restore(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    for one in cache:
        kept = {name: array * 1 for name, array in one.stored(one.offset).items()}
        one.restore(kept, one.offset)
    return cache


def branch(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    """What a probe does: it goes on from here for a while, and leaves everything as it was."""
    other = [copy(one) for one in cache]
    steps(mx.array([[9]], mx.uint32), other)
    network(mx.array([[2, 8, 1]], mx.uint32), other)
    return cache


def adopt(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    other = [copy(one) for one in cache]
    network(mx.array([[2, 8, 1]], mx.uint32), other)
    return other


def round_up(network: Qwen3Network, cache: Caches, steps: FusedStep) -> Caches:
    for one in cache:
        one.reserve(max(one.even_capacity(), one.capacity + 256))
    return cache


CHANGES: list[Callable[[Qwen3Network, Caches, FusedStep], Caches]] = [
    trim, trim_far, prefill, step_alone, store, restore, branch, adopt, round_up,
]  # fmt: skip


def same_as_plain(rows: FusedRows, network: Qwen3Network, caches: list[Caches]) -> None:
    """Step `caches` by one token each, and hold the logits to those of plain copies."""
    plain = network.make_cache()
    wanted = []
    tokens = tokens_of(len(caches))
    for row, cache in zip(tokens, caches, strict=True):
        plain = network.make_cache()
        for one, other in zip(cache, plain, strict=True):
            whole = copy(one)
            other.restore({k: a * 1 for k, a in whole.stored(whole.offset).items()}, whole.offset)
        wanted.append(network(row[None], plain))
    mx.eval(wanted)
    assert_close(rows.together(tokens, caches), mx.concatenate(wanted), bound=1e-10)
    assert not rows.fault


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("count", [1, 3])
def test_a_changed_cache_is_opened_anew(change: Any, count: int) -> None:
    network = network_of(mx.float32)
    rows, steps = FusedRows(network, operations=layer.HYBRID), FusedStep(network)
    caches, _ = filled(network, [5, 9, 14][:count])
    for _ in range(3):
        same_as_plain(rows, network, caches)
        caches[-1] = change(network, caches[-1], steps)
        same_as_plain(rows, network, caches)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_changes_comings_and_goings(seed: int) -> None:
    draw = random.Random(seed)
    network = network_of(mx.float32)
    rows, steps = FusedRows(network, operations=layer.HYBRID), FusedStep(network)
    everyone, _ = filled(network, [5, 9, 14, 3])
    for _ in range(14):
        if draw.random() < 0.5:
            index = draw.randrange(4)
            everyone[index] = draw.choice(CHANGES)(network, everyone[index], steps)
        present = draw.sample(range(4), draw.choice([1, 2, 2, 3, 4]))
        same_as_plain(rows, network, [everyone[index] for index in present])


def test_no_layer_is_asked_while_nothing_changes(asked: list[int]) -> None:
    network = network_of(mx.float32)
    rows = FusedRows(network, operations=layer.HYBRID)
    caches, _ = filled(network, [5, 9])
    each_step = []
    for _ in range(14):
        asked.clear()
        rows.together(tokens_of(2), caches)
        each_step.append(len(asked))
    closing = [0] * 5 + [2]  # tails of six: both layers, at every sixth step
    assert each_step == ([2, *closing, *closing, 0])
    asked.clear()
    rows.rows(tokens_of(3), [caches[0]], [3])
    for one in caches[0]:
        one.trim(2)  # as after wrong drafts
    rows.rows(tokens_of(3), [caches[0]], [3])
    assert asked == [1, 1], "the first step of one alone; the second one takes what it left"


def test_growth_is_foreseen_and_a_trace_is_known() -> None:
    network = network_of(mx.float32)
    rows, steps = FusedRows(network, operations=layer.HYBRID), FusedStep(network)
    caches, _ = filled(network, [250, 240])
    for _ in range(3):  # so that their tails are full at different steps
        steps(mx.array([[7]], mx.uint32), caches[1])
    foreseen, grown, traced = [], [], []
    for step in range(20):
        before = [cache[0].state[0].shape[2] for cache in caches]
        foreseen.append([cache[0].grows(1) for cache in caches])
        traced.append(rows.is_traced(caches, [1, 1]))
        if step % 5 == 4:
            for cache in caches:
                steps(mx.array([[7]], mx.uint32), cache)
        else:
            rows.together(tokens_of(2), caches)
        after = [cache[0].state[0].shape[2] for cache in caches]
        grown.append([a > b for a, b in zip(after, before, strict=True)])
    assert foreseen == grown and sum(map(sum, grown)) == 2
    first, second = (index for index, each in enumerate(grown) if any(each))
    unknown = [index for index, known in enumerate(traced) if not known]
    assert unknown[0] == 0 and set(unknown) <= {0, first + 1, second + 1}
    assert rows.is_traced(caches, [1, 1]) and not rows.is_traced(caches[:1], [2])


def test_the_step_after_rounding_up_reads_the_new_buffers() -> None:
    """Else the smaller ones stayed in memory beside them."""
    network = network_of(mx.float32)
    rows = FusedRows(network, operations=layer.HYBRID)
    caches, _ = filled(network, [5, 9])
    rows.together(tokens_of(2), caches)
    caches[1] = round_up(network, caches[1], FusedStep(network))
    opened = tailed.open_together(caches, [1, 1])  # type: ignore[arg-type]
    sizes = {tuple(buffers[0].shape[2] for buffers in each) for each, _ in opened}
    assert sizes == {(caches[0][0].capacity, caches[1][0].capacity)}


def test_what_is_left_holds_no_other_sequence_and_goes_with_its_own(
    launches: list[Launch],
) -> None:
    network = network_of(mx.float32)
    rows = FusedRows(network, operations=layer.HYBRID)
    mx.eval(rows.table)
    caches = filled(network, [200, 200])[0]
    mx.eval(rows.together(tokens_of(2), caches), [one.state for each in caches for one in each])
    launches.clear()  # they name their inputs
    held = mx.get_active_memory()
    sizes = [sum(buffer.nbytes for one in each for buffer in one.buffers(1)) for each in caches]  # type: ignore[attr-defined]
    del caches[1]
    assert held - mx.get_active_memory() >= sizes[1], "the other's buffers stayed with the first"
    held = mx.get_active_memory()
    del caches[0]
    assert held - mx.get_active_memory() >= sizes[0]


def test_the_cache_format_is_that_of_all(asked: list[int]) -> None:
    """What a sequence of another order left isn't taken."""
    network = network_of(mx.float32)
    rows = FusedRows(network, AS_COMPUTED, layer.HYBRID)
    caches, _ = filled(network, [5, 9])
    rows.together(tokens_of(2), caches)
    asked.clear()
    same_as_plain(rows, network, caches[::-1])
    same_as_plain(rows, network, caches[:1])
    assert asked == [2, 2, 1, 1]


@pytest.mark.parametrize(("beyond", "grows"), [(-1, False), (0, False), (1, True)])
def test_a_tail_that_just_fits_makes_no_buffer_grow(beyond: int, grows: bool) -> None:
    cache, length = tailed.TailedCache(1000), 256 - attend.TAIL + beyond
    cache.append(*(mx.zeros((1, 2, length, 8)) for _ in range(2)))
    assert cache.capacity == 256
    for _ in range(attend.TAIL):
        assert not cache.grows(1)
        cache.grow(cache.open()[-1])
    assert cache.offset == 256 + beyond and cache.grows(1) == grows
    cache.open()
    assert (cache.capacity > 256) == grows
