"""Turns with drafts that run together, and one of them fares badly: the others don't notice."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest

from qwen3_mlx.chat.draft import Drafts
from qwen3_mlx.chat.turns import MOST_EVENTS, Reading, Turn, new_scheduler
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.payoff import Payoff
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.errors import ContextError, OutOfMemoryError
from qwen3_mlx.events import Done, Reply
from qwen3_mlx.fit import machine
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.chat.any_drafts import eager
from tests.chat.schedules import same, turn

pytestmark = pytest.mark.usefixtures("whole_prompts")

OPTIONS: dict[str, Any] = {"seed": 5, "max_tokens": 24, "thinking": False}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Drafts in every step, whatever they take."""
    monkeypatch.setattr(Payoff, "drafts", 3)
    monkeypatch.setattr(Payoff, "wanted", 3)
    with eager(at_once=7):
        yield


@pytest.fixture
def model() -> Qwen3:
    """A model that drafts for itself, so that drafts are right."""
    runtime = tiny.runtime(3)
    return Qwen3(replace(runtime, drafts=Drafts(runtime, runtime)))


def plain(prompt: str, **options: Any) -> Reply:
    return Qwen3(tiny.runtime(3)).generate(prompt, **options)


def scheduler_of(model: Qwen3, **settings: Any) -> Scheduler:
    return new_scheduler(model.runtime, prefix_bytes=0, clock=lambda: 100.0, **settings)


def told(one: Turn) -> Reply:
    return Reply.from_events(event for event in one if not isinstance(event, Reading))


def finish(scheduler: Scheduler) -> None:
    for _ in range(2_000):
        if not scheduler.busy:
            return
        scheduler.round()
    raise AssertionError("it does not end")


@pytest.mark.parametrize("kind", ["stop", "answer"])
def test_cancelled_at_every_round(kind: Any, model: Qwen3) -> None:
    """While it waits, reads, catches up, and between drafts; memory is back where it was."""
    options: dict[str, Any] = {"seed": 5, "max_tokens": 24}
    expected, first = plain("cde", **options), True
    alone = plain("ab cde fghi jk", **options)
    for after in (*range(7), 10) if kind == "stop" else (0, 4, 7):
        turns = [turn(model, prompt, **options) for prompt in ("ab cde fghi jk", "cde")]
        scheduler = scheduler_of(model, parallel=1 if after == 1 else 2)
        for one in turns:
            scheduler.submit(one.task)
        for _ in range(after):
            scheduler.round()
        turns[0].interrupt(kind)
        finish(scheduler)
        assert same(told(turns[1]), expected), after
        disturbed = told(turns[0])
        assert kind == "answer" or alone.thinking.startswith(disturbed.thinking), after
        del turns, one, scheduler
        gc.collect()
        if first:
            held, first = mx.get_active_memory(), False
        assert mx.get_active_memory() <= held, after


def test_a_reader_who_stops_reading_is_waited_for_and_then_ended(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    scheduler = new_scheduler(model.runtime, prefix_bytes=0, clock=lambda: now[0], patience=60.0)
    slow, other = turn(model, "ab", **OPTIONS), turn(model, "cde", **OPTIONS)
    monkeypatch.setattr(slow, "full", lambda: slow.generated_tokens >= 5)
    for one in (slow, other):
        scheduler.submit(one.task)
    for _ in range(60):
        scheduler.round()
    assert same(told(other), plain("cde", **OPTIONS))
    assert scheduler.running == 1 and 5 <= slow.generated_tokens < 5 + 8 < MOST_EVENTS
    now[0] += 61
    finish(scheduler)
    heard = [event for event in slow if not isinstance(event, Reading)]
    assert isinstance(heard[-1], Done) and heard[-1].finish_reason == "interrupted"
    assert heard[-1].stats.speculation is not None and heard[-1].stats.speculation.accepted > 0


def test_a_prompt_too_long_among_many(model: Qwen3) -> None:
    replies = model.generate_many(["ab", "cd " * 2_000, "cde"], return_errors=True, **OPTIONS)
    assert isinstance(replies[1], ContextError)
    for number, prompt in ((0, "ab"), (2, "cde")):
        reply = replies[number]
        assert isinstance(reply, Reply) and same(reply, plain(prompt, **OPTIONS))


def test_a_draft_model_s_keys_and_values_need_room_too(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**9]
    monkeypatch.setattr(machine, "this_machine", lambda swap=False: Machine(free[0], "free", 4))
    without, with_it = scheduler_of(Qwen3(tiny.runtime(3))), scheduler_of(model)
    answers = []
    for free[0] in range(0, 600_000, 20_000):
        answers.append(
            [one._admission.room(200, 100, False, one.prefixes) for one in (without, with_it)]
        )
    assert [True, False] in answers and [False, True] not in answers and answers[-1] == [True] * 2


def test_drafters_that_run_out_of_memory_cost_their_turns_the_drafts_alone(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[DraftModel]] = []
    propose, calls = DraftModel.propose, [0]

    def short(drafter: DraftModel, *given: Any) -> mx.array | None:
        made.append(weakref.ref(drafter))
        calls[0] += 1
        if calls[0] == 5:
            raise RuntimeError("[malloc] Unable to allocate 9 bytes")
        return propose(drafter, *given)

    monkeypatch.setattr(DraftModel, "propose", short)
    replies = model.generate_many(["ab", "cde"], **OPTIONS)
    for prompt, reply in zip(("ab", "cde"), replies, strict=True):
        assert isinstance(reply, Reply) and same(reply, plain(prompt, **OPTIONS))
    off = [reply.stats.speculation.off for reply in replies if reply.stats.speculation]
    assert sorted("Unable to allocate" in reason for reason in off) == [False, True]
    del replies
    gc.collect()
    assert calls[0] > 5 and not any(one() for one in made), "their memory is free"


def test_a_device_that_is_full_in_the_pass_ends_those_in_it(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(model)
    forward, calls = scheduler.side_by_side.forward, [0]
    assert forward is not None

    def full(*given: Any) -> mx.array:
        calls[0] += 1
        if calls[0] == 4:
            raise RuntimeError("[malloc] Unable to allocate 9 bytes")
        return forward(*given)

    monkeypatch.setattr(scheduler.side_by_side, "forward", full)
    turns = [turn(model, prompt, **OPTIONS) for prompt in ("ab", "cde")]
    for one in turns:
        scheduler.submit(one.task)
    finish(scheduler)
    for one in turns:
        with pytest.raises(OutOfMemoryError):
            told(one)
    later = turn(model, "ab", **OPTIONS)
    scheduler.submit(later.task)
    finish(scheduler)
    assert same(told(later), plain("ab", **OPTIONS))
