"""Prompts beside others: short ones are read by steps of rows, where kernels multiply these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest

from qwen3_mlx.engine import prompt_reader
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.prompt_reader import PASS_EVERY, SHORT, SLOWEST, PromptReader
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.task import Task
from qwen3_mlx.errors import OptionError
from tests import tiny
from tests.oracle import assert_close

NETWORK, CONFIG = tiny.network(77)


class Rows:
    """Steps of rows by the network itself, and how many each had; each takes `each` seconds."""

    def __init__(self, able: bool = True, each: float = 1.0) -> None:
        self.able, self.each, self.sizes, self.now = able, each, list[int](), 0.0
        self.reads = able

    def multiplies(self, caches: Any, new: Sequence[int]) -> bool:
        return self.able and bool(caches[0][0].state)

    def successive(self, tokens: mx.array, cache: Any) -> mx.array:
        self.sizes.append(len(tokens))
        self.now += self.each
        return NETWORK.successive(tokens, cache)


def task_of(prompt: list[int], held: int, chunk: int | None = None) -> Task:
    """A task whose cache holds the first tokens of its prompt already."""
    sequence: Any = TurnSequence.__new__(TurnSequence)  # not asked
    listener: Any = None
    sampler: Any = None
    task = Task(prompt, sequence, sampler, listener, prefill_chunk=chunk)
    task.cache = PromptCache(NETWORK)
    if held:
        prefill(NETWORK, prompt[:held], task.cache)
    return task


def prompt_of(length: int) -> list[int]:
    return [(7 * n) % 20 for n in range(length)]


def read(task: Task, rows: Rows, seconds: float = 1e9) -> tuple[mx.array | None, PromptReader]:
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]
    return reader.read(task, seconds), reader


@pytest.mark.parametrize(
    ("left", "sizes"),
    [
        (2, [2]),
        (15, [15]),
        (16, [16]),
        (17, [15, 2]),  # one token alone would take a pass
        (18, [16, 2]),
        (30, [16, 14]),
        (33, [16, 15, 2]),
        (SHORT, [16] * 8),
    ],
)
def test_a_short_rest_is_read_by_steps_of_rows(left: int, sizes: list[int]) -> None:
    prompt, rows = prompt_of(left + 5), Rows()
    task = task_of(prompt, 5)
    logits, reader = read(task, rows)
    assert rows.sizes == sizes and task.cache is not None and task.cache.tokens == prompt
    expected = prefill(NETWORK, prompt, PromptCache(NETWORK))
    assert logits is not None and expected is not None and logits.shape == expected.shape
    assert_close(logits, expected)
    assert reader.pace.seconds == 0  # that of passes learns nothing from steps


@pytest.mark.parametrize(
    ("left", "able", "chunk"),
    [(1, True, None), (SHORT + 1, True, None), (30, False, None), (30, True, 15)],
    ids=["one token", "a long prompt", "kernels that aren't there", "a user's chunk"],
)
def test_a_pass_reads_what_steps_of_rows_dont(left: int, able: bool, chunk: int | None) -> None:
    task, rows = task_of(prompt_of(left + 5), 5, chunk), Rows(able)
    logits, reader = read(task, rows)
    assert rows.sizes == [] and task.cache is not None
    assert len(task.cache.tokens) == 5 + min(left, chunk or 16)  # the first pass learns the pace
    assert reader.pace.recent and (logits is None) == bool(task.left)


def test_a_users_chunk_of_a_steps_rows_or_more_changes_nothing() -> None:
    rows = Rows()
    read(task_of(prompt_of(35), 5, 16), rows)
    assert rows.sizes == [16, 14]


def test_reading_ends_once_its_time_is_over_and_goes_on_in_the_next_round() -> None:
    prompt, rows = prompt_of(75), Rows()
    task = task_of(prompt, 5)
    assert read(task, rows, 2.5)[0] is None and rows.sizes == [16, 16]
    assert read(task, rows, 0)[0] is None and rows.sizes == [16, 16, 16]
    logits, _ = read(task, rows, 2)
    expected = prefill(NETWORK, prompt, PromptCache(NETWORK))
    assert logits is not None and expected is not None
    assert_close(logits, expected)


def test_a_step_that_copies_the_cache_is_a_rounds_only_one() -> None:
    """It takes longer than the steps before it, by which the rest of a round is planned."""
    task, rows = task_of(prompt_of(300), 220), Rows()
    assert task.cache is not None
    held = []
    while task.left:
        before = len(rows.sizes)
        read(task, rows)
        held.append((len(rows.sizes) - before, len(task.cache.tokens)))
    assert held == [(2, 252), (3, 300)], "the buffers have 256 rows"


def reader_of(rows: Rows, own: float) -> PromptReader:
    """One whose passes were seen to take `own` seconds and little for each token."""
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]
    for tokens in (4, 8, 16, 32):
        reader.pace.took(tokens, own + tokens / 1000)
    return reader


def test_steps_read_a_long_prompt_where_a_pass_would_keep_others_waiting() -> None:
    prompt, rows = prompt_of(10 * SHORT), Rows()
    task, reader = task_of(prompt, 5), reader_of(rows, own=4.0)
    assert reader.read(task, 2.5, awaited=True) is None and rows.sizes == [16, 16]
    passes = len(reader.pace.recent)
    logits = None
    while task.left:
        logits = reader.read(task, 2.5, awaited=True)
    assert len(rows.sizes) > 2 * 2 * PASS_EVERY, "in so many chunks one would be tried"
    assert len(reader.pace.recent) == passes and sum(rows.sizes) == len(prompt) - 5
    expected = prefill(NETWORK, prompt, PromptCache(NETWORK))
    assert logits is not None and expected is not None
    assert_close(logits, expected)


def test_a_pass_is_tried_now_and_then_where_steps_are_faster() -> None:
    rows, task = Rows(), task_of(prompt_of(SHORT * PASS_EVERY), 5)
    reader = reader_of(rows, own=4.0)
    before, chunks = len(reader.pace.recent), 0
    while len(reader.pace.recent) == before and task.left > SHORT:
        reader.read(task, 4.5, awaited=True)
        chunks += 1
    first = 1  # the chunk that tells how long steps take
    assert chunks == PASS_EVERY + first
    growing = 1  # chunks that leave a step which copies the cache to the next one
    assert len(rows.sizes) == PASS_EVERY * 4 - growing


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> tuple[Rows, list[int]]:
    """Steps of 4 seconds beside passes of 3.5 and a few, the first of 100; and these' sizes."""
    rows, sizes = Rows(each=4.0), list[int]()

    def passed(network: Any, tokens: list[int], cache: PromptCache, size: int) -> mx.array | None:
        rows.now += 3.5 + 0.03 * size if sizes else 100.0  # a compiler's
        sizes.append(size)
        return prefill(network, tokens, cache, size)

    monkeypatch.setattr(prompt_reader, "prefill", passed)
    return rows, sizes


def test_a_late_pass_is_tried_where_nobody_waits(passes: tuple[Rows, list[int]]) -> None:
    rows, sizes = passes
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]

    def read_whole(awaited: bool) -> list[int]:
        before, task = len(sizes), task_of(prompt_of(4 * SHORT), 5)
        while task.left > SHORT:
            reader.read(task, 3.0, awaited)
        return sizes[before:]

    assert sum(read_whole(awaited=False)[:2]) == 20, "delayed"
    for _ in range(4):
        read_whole(awaited=False)
    assert max(read_whole(awaited=True)) > 64, "four passes were enough to believe them"
    reader.pace.seconds, reader.pace.own = 1.0, 0.0
    assert read_whole(awaited=True) == [], "believed late: others don't wait to find out"


def test_a_pass_that_would_read_less_than_a_step_is_not_tried(
    passes: tuple[Rows, list[int]],
) -> None:
    """On an H200 passes of two tokens took 75 ms of those who answered, and told nothing."""
    rows, sizes = passes
    rows.each = 0.5
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]
    for _ in range(8):
        reader.pace.took(4, 2.0)
    task = task_of(prompt_of(12 * SHORT), 5)
    while task.left > SHORT:
        reader.read(task, 3.0, awaited=True)
    assert sizes == [] and len(rows.sizes) > 2 * PASS_EVERY


def test_passes_and_steps_are_timed_in_idle_time(passes: tuple[Rows, list[int]]) -> None:
    """In unlike lengths, so that a pass's own time is known in spite of a compiler's."""
    rows, sizes = passes
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]
    while reader.get_ready():
        pass
    assert sizes == [16, 32] * 3 and rows.sizes == [16] * 6
    assert reader.pace.own == pytest.approx(3.5) and not reader.get_ready()
    task = task_of(prompt_of(4 * SHORT), 5)
    assert reader.read(task, 1.5, awaited=True) is None
    assert sizes[6:] == [64], "steps would take 16 seconds for what a pass takes 5.4"


def test_a_pass_that_fails_in_idle_time_fails_nothing_else(
    passes: tuple[Rows, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler would drop all that it keeps, once for each."""
    rows, _ = passes
    tried: list[int] = []

    def fails(network: Any, tokens: list[int], *_: Any) -> None:
        tried.append(len(tokens))
        raise MemoryError

    monkeypatch.setattr(prompt_reader, "prefill", fails)
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]
    assert reader.get_ready() and not reader.get_ready()
    assert tried == [16] and not reader.pace.recent


@pytest.mark.parametrize(("rows", "led"), [(None, False), (Rows(False), False), (Rows(), True)])
def test_where_steps_read_nothing_nothing_is_timed(rows: Rows | None, led: bool) -> None:
    network = tiny.network(77)[0]
    network.model.lead = object() if led else None  # type: ignore[assignment]
    reader = PromptReader(network, CONFIG, lambda: rows)  # type: ignore[arg-type, return-value]
    assert not reader.get_ready() and not reader.pace.recent


@pytest.mark.parametrize(("held", "expected"), [(0, [4]), (5, [])])
@pytest.mark.parametrize("length", [SHORT, 4 * SHORT])
def test_a_prompt_that_others_wait_for_begins_by_a_short_pass(
    length: int, held: int, expected: list[int], passes: tuple[Rows, list[int]]
) -> None:
    """Steps need something to begin with, and MLX multiplies few tokens faster than 16."""
    rows, sizes = passes
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]
    task = task_of(prompt_of(length), held)
    reader.read(task, 1.5, awaited=True)
    assert sizes == expected and bool(rows.sizes) != bool(expected)


def test_a_short_prompt_that_nobody_waits_for_is_one_pass(passes: tuple[Rows, list[int]]) -> None:
    rows, sizes = passes
    reader = PromptReader(NETWORK, CONFIG, lambda: rows, lambda: rows.now)  # type: ignore[arg-type, return-value]
    while reader.get_ready():
        pass
    reader.read(task_of(prompt_of(60), 0), 100.0)
    assert sizes[6:] == [60]


LATE_PASS = 4.0 + 64 * 0.001
"""Seconds that the pass of 64 tokens takes which is due after `reader_of`'s."""


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize(("seconds", "factor"), [(5.0, 1.1), (1.0, SLOWEST * 1.1)])
def test_a_pass_reads_where_steps_are_slower_or_missing(
    able: bool, seconds: float, factor: float
) -> None:
    rows = Rows(able, each=16 * factor * LATE_PASS / 64)
    task, reader = task_of(prompt_of(4 * SHORT), 5), reader_of(rows, own=4.0)
    assert reader.pace.size(seconds, 1000) == 64
    reader.read(task, seconds, awaited=True)
    found = list(rows.sizes)
    assert bool(found) == able, "the first step tells how long they take"
    reader.read(task, seconds, awaited=True)
    assert rows.sizes == found, "too long"


def test_a_pass_reads_where_nobody_waits() -> None:
    rows = Rows(each=0.001)
    reader_of(rows, own=4.0).read(task_of(prompt_of(4 * SHORT), 5), 1.0)
    assert rows.sizes == []


def test_an_id_without_a_row_is_refused_before_mlx_sees_it() -> None:
    task, rows = task_of([1, 2, 3, 24, 5], 1), Rows()
    with pytest.raises(OptionError):
        read(task, rows)
    assert rows.sizes == [] and task.cache is not None and task.cache.tokens == [1]
