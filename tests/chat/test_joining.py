"""A long prompt that joins sequences which are answering: how long they wait for a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import qwen3_mlx.engine.prompt_reader as reader_module
from qwen3_mlx.chat.turns import new_scheduler
from qwen3_mlx.engine.fair import CHUNK_SECONDS, CHUNK_STEPS, SHORTEST
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.chat.schedules import turn

PAST = 1_100
"""Tokens of a past that cost a token as much as its matrices do, on the machine that is played."""
NO_END = {"max_tokens": 900, "thinking": False, "seed": 1}


class Machine:
    """A machine whose chunks and steps take the time that is said here, on its own clock."""

    def __init__(self, a_token: float, a_row: float) -> None:
        self.now, self.a_token, self.a_row = 100.0, a_token, a_row
        self.sizes: list[int] = []

    def clock(self) -> float:
        return self.now

    def prefill(self, network: Any, tokens: Sequence[int], cache: Any, chunk: int) -> Any:
        self.sizes.append(len(tokens))
        past = len(cache.tokens) + len(tokens) / 2
        self.now += len(tokens) * self.a_token * (1 + past / PAST)
        return prefill(network, tokens, cache, chunk)


@pytest.mark.parametrize(
    ("a_token", "a_row"), [(1e-5, 1e-3), (1e-3, 1e-3), (1e-3, 0.1), (1.0, 0.1), (1.0, 3.0)]
)
def test_the_others_wait_for_a_step_and_a_chunk(
    a_token: float, a_row: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the machine: for the first chunk too, from which its speed is learned."""
    machine, model = Machine(a_token, a_row), Qwen3(tiny.runtime(3))
    monkeypatch.setattr(reader_module, "prefill", machine.prefill)
    scheduler = new_scheduler(model.runtime, clock=machine.clock)
    step = scheduler.side_by_side.step

    def timed(*given: Any) -> list[int]:
        machine.now += a_row
        return step(*given)

    monkeypatch.setattr(scheduler.side_by_side, "step", timed)
    bias = dict.fromkeys(model.tokenizer.eos_ids, -100.0)
    writer = turn(model, "ab", logit_bias=bias, **NO_END)
    scheduler.submit(writer.task)
    while writer.generated_tokens < 10:
        scheduler.round()
    machine.sizes.clear()
    long = turn(model, "ab " * 200, max_tokens=5, thinking=False)
    scheduler.submit(long.task)
    while not long.generated_tokens:
        scheduler.round()
    chunk = max(CHUNK_SECONDS, CHUNK_STEPS * a_row)
    least = SHORTEST * a_token * (1 + len(long.request.prompt) / PAST)
    assert scheduler.counts.longest_gap <= a_row + max(chunk, least), machine.sizes
    if a_token * 400 < chunk:
        assert len(machine.sizes) < 12, "and what fits is read at once"


def test_who_has_read_its_prompt_comes_in_the_next_round() -> None:
    """A step of more rows may have to be traced: not in the round of the last chunk too."""
    model = Qwen3(tiny.runtime(3))
    scheduler = new_scheduler(model.runtime, clock=lambda: 100.0)
    bias = dict.fromkeys(model.tokenizer.eos_ids, -100.0)
    one, other = (turn(model, "ab", logit_bias=bias, **NO_END) for _ in range(2))
    scheduler.submit(one.task)
    while not one.generated_tokens:
        scheduler.round()
    scheduler.submit(other.task)
    while other.task.decoder is None:
        before = one.generated_tokens
        scheduler.round()
        assert one.generated_tokens == before + 1
    assert other.generated_tokens == 0
    scheduler.round()
    assert (one.generated_tokens, other.generated_tokens) == (before + 2, 1)
