"""Prompts beside others: short ones are read by steps of rows, where kernels multiply these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest

from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.prompt_reader import SHORT, PromptReader
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.task import Task
from qwen3_mlx.errors import OptionError
from tests import tiny
from tests.oracle import assert_close

NETWORK, CONFIG = tiny.network(77)


class Rows:
    """Steps of rows by the network itself, and how many each had; each takes a second."""

    def __init__(self, able: bool = True) -> None:
        self.able, self.sizes, self.now = able, list[int](), 0.0

    def multiplies(self, caches: Any, new: Sequence[int]) -> bool:
        return self.able

    def successive(self, tokens: mx.array, cache: Any) -> mx.array:
        self.sizes.append(len(tokens))
        self.now += 1
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
    assert read(task, rows, 1.5)[0] is None and rows.sizes == [16, 16]
    assert read(task, rows, 0)[0] is None and rows.sizes == [16, 16, 16]
    logits, _ = read(task, rows, 2)
    expected = prefill(NETWORK, prompt, PromptCache(NETWORK))
    assert logits is not None and expected is not None
    assert_close(logits, expected)


def test_an_id_without_a_row_is_refused_before_mlx_sees_it() -> None:
    task, rows = task_of([1, 2, 3, 24, 5], 1), Rows()
    with pytest.raises(OptionError):
        read(task, rows)
    assert rows.sizes == [] and task.cache is not None and task.cache.tokens == [1]
