"""Tasks of one scheduler: who runs, who waits, who ends, and what is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.control import Control
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.task import Task
from qwen3_mlx.errors import BusyError
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import Sampling
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests import tiny

MARKERS = Markers(24, 25, None, frozenset({26}))  # beyond the vocabulary: nothing ends a turn
STOP = (3, 9, 5)
PROMPT = [n * 7 % 20 + 1 for n in range(24)]


@cache
def made() -> tuple[Qwen3Network, Qwen3Config]:
    """Made by the first test: a process that has computed can't be forked (`tests.mutate`)."""
    return tiny.network(77)


class Heard:
    """All that a task told its listener."""

    def __init__(self) -> None:
        self.read, self.said_ids = list[tuple[int, int]](), list[tuple[tuple[int, ...], bool]]()
        self.is_full = False
        self.ends, self.errors = list[PromptCache | None](), list[Exception]()

    @property
    def ids(self) -> list[int]:
        return [token for ids, _ in self.said_ids for token in ids]

    def reading(self, done: int, total: int) -> None:
        self.read.append((done, total))

    def said(self, ids: tuple[int, ...], generated: bool, logprobs: object) -> None:
        self.said_ids.append((ids, generated))

    def full(self) -> bool:
        return self.is_full

    def ended(self, cache: PromptCache | None) -> None:
        self.ends.append(cache)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


def heard(task: Task) -> Heard:
    assert isinstance(task.listener, Heard)
    return task.listener


def a_task(
    prompt: Sequence[int] = PROMPT, length: int = 4, limit: int | None = None, **more: Any
) -> Task:
    """A task that says `length` tokens; limit: its thinking budget, behind an open thought."""
    budget = ThinkingBudget(limit, STOP)
    sequence = TurnSequence(MARKERS, budget, length, Control(), inside=limit is not None)
    greedy = Sampling(temperature=0, top_p=1, top_k=0)
    return Task([*prompt], sequence, lambda: Sampler(greedy, 24, prompt, 0), Heard(), **more)


def scheduler_of(*tasks: Task, **settings: Any) -> Scheduler:
    """A scheduler whose clock stands, so that chunks don't depend on how busy the machine is."""
    network, config = made()
    settings = {"clock": lambda: 100.0} | settings
    found = Scheduler(network, config, lambda: PromptCache(network), **settings)
    for task in tasks:
        found.submit(task)
    return found


def run(scheduler: Scheduler, until: Callable[[], object] | None = None) -> None:
    """Rounds until `until` is true, or nothing is left to do."""
    for _ in range(500):
        if until() if until else not scheduler.busy:
            return
        scheduler.round()
    raise AssertionError("it never came")


def alone(task: Task) -> list[int]:
    run(scheduler_of(task))
    return heard(task).ids


@pytest.mark.parametrize("own", [True, False])
def test_only_a_conversation_that_goes_on_elsewhere_hands_its_drafter_over(own: bool) -> None:
    network, _ = made()
    task = a_task(own=PromptCache(network) if own else None)
    closed = list[bool]()
    decoder: Any = SimpleNamespace(close=lambda: closed.append(True))
    task.decoder = decoder
    task.leave()
    assert task.decoder is None and closed == [True] * own


def test_what_was_read_and_said_is_counted() -> None:
    scheduler = scheduler_of(first := a_task())
    run(scheduler)
    counts = scheduler.counts
    assert (counts.prompt_tokens, counts.cached_tokens, counts.generated_tokens) == (24, 0, 4)
    assert counts.ended == {"length": 1} and heard(first).read[0] == (0, 24)
    assert [(len(ids), generated) for ids, generated in heard(first).said_ids] == [(1, True)] * 4
    scheduler.submit(second := a_task([*PROMPT, 9], length=6))
    run(scheduler)
    assert (counts.prompt_tokens, counts.cached_tokens, counts.generated_tokens) == (49, 24, 10)
    assert counts.ended == {"length": 2} and counts.failed == counts.faults == 0
    assert heard(second).read == [(24, 25), (25, 25)], "what was kept is told first"
    assert counts.steps == counts.passes == 10


def test_a_stop_text_is_not_counted_as_generated() -> None:
    scheduler = scheduler_of(task := a_task(length=12, limit=2))
    run(scheduler)
    assert (STOP, False) in heard(task).said_ids and len(heard(task).ids) == 12
    assert scheduler.counts.generated_tokens == 12 - len(STOP)


def test_one_that_fails_is_counted_and_the_others_go_on() -> None:
    bad, good = a_task(), a_task([5, *PROMPT], length=9)
    fault = RuntimeError("no draw")

    def fails() -> Sampler:
        raise fault

    bad.sampler = fails
    scheduler = scheduler_of(bad, good)
    run(scheduler)
    assert heard(bad).errors == [fault] and not heard(bad).ends and not heard(bad).ids
    assert heard(good).ids == alone(a_task([5, *PROMPT], length=9))
    assert (scheduler.counts.failed, scheduler.counts.ended) == (1, {"length": 1})


def test_an_error_of_no_task_ends_all_and_drops_what_was_kept() -> None:
    scheduler = scheduler_of(a_task([2, *PROMPT]))
    run(scheduler)
    assert len(scheduler.prefixes) == 1
    tasks = [a_task(length=50), a_task([5, *PROMPT]), a_task([6, *PROMPT])]
    scheduler.parallel = 2
    for task in tasks:
        scheduler.submit(task)
    run(scheduler, lambda: heard(tasks[0]).ids)
    fault = RuntimeError("lost")
    scheduler.fail_all(fault)
    assert [heard(task).errors for task in tasks] == [[fault]] * 3
    assert (scheduler.counts.faults, scheduler.counts.failed) == (1, 3)
    assert not scheduler.busy and len(scheduler.prefixes) == 0 and scheduler.round() is False


def test_a_full_queue_refuses_and_says_how_many_there_are() -> None:
    tasks = [a_task([n, *PROMPT], length=30) for n in range(5)]
    scheduler = scheduler_of(*tasks[:3], parallel=2, waiting=1)
    assert (scheduler.running, scheduler.waiting) == (0, 3)
    with pytest.raises(BusyError, match="0 running and 3 waiting"):
        scheduler.submit(tasks[3])
    scheduler.round()
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    assert [scheduler.position(task) for task in tasks[:4]] == [None, None, 0, None]
    with pytest.raises(BusyError, match="2 running and 1 waiting"):
        scheduler.submit(tasks[3])
    tasks[0].sequence.control.interrupt("stop")
    run(scheduler, lambda: heard(tasks[0]).ends)
    scheduler.round()
    assert (scheduler.running, scheduler.waiting) == (2, 0), "the one that waited has its place"
    scheduler.submit(tasks[3])
    assert scheduler.position(tasks[3]) == 0
    run(scheduler)
    assert scheduler.counts.ended == {"interrupted": 1, "length": 3}


def test_who_is_stopped_while_it_waits_computes_nothing() -> None:
    scheduler = scheduler_of(first := a_task(), second := a_task([5, *PROMPT]), parallel=1)
    second.sequence.control.interrupt("stop")
    run(scheduler)
    assert second.sequence.finish_reason == "interrupted" and heard(second).ends == [None]
    assert not heard(second).read and scheduler.counts.prompt_tokens == len(PROMPT)
    assert heard(first).ids == alone(a_task())


def test_stop_all_ends_those_that_run_and_those_that_wait() -> None:
    tasks = [a_task([n, *PROMPT], length=500) for n in range(3)]
    scheduler = scheduler_of(*tasks, parallel=2)
    run(scheduler, lambda: heard(tasks[0]).ids)
    scheduler.stop_all()
    run(scheduler)
    assert {task.sequence.finish_reason for task in tasks} == {"interrupted"}
    assert all(len(heard(task).ends) == 1 for task in tasks)


@pytest.mark.parametrize("patience", [60.0, 7.5])
def test_a_listener_without_room_pauses_and_is_ended_when_patience_is_over(
    patience: float,
) -> None:
    now = [1000.0]
    slow, other = a_task(length=9), a_task([5, *PROMPT], length=30)
    scheduler = scheduler_of(slow, other, clock=lambda: now[0], patience=patience)
    run(scheduler, lambda: len(heard(slow).ids) == 3)
    heard(slow).is_full = True
    run(scheduler, lambda: heard(other).ends)
    now[0] += patience
    assert scheduler.round() is False and scheduler.busy
    assert len(heard(slow).ids) == 3 and not heard(slow).ends, "it may come back up to then"
    now[0] += 0.1
    scheduler.round()
    assert slow.sequence.finish_reason == "interrupted" and len(heard(slow).ends) == 1
    assert not scheduler.busy and scheduler.counts.ended == {"length": 1, "interrupted": 1}


def test_a_listener_that_has_room_again_says_what_it_would_have_said() -> None:
    scheduler = scheduler_of(slow := a_task(length=9))
    run(scheduler, lambda: len(heard(slow).ids) == 3)
    heard(slow).is_full = True
    assert [scheduler.round() for _ in range(3)] == [False] * 3
    heard(slow).is_full = False
    run(scheduler)
    assert heard(slow).ids == alone(a_task(length=9))


def test_a_prompt_is_read_in_chunks_no_longer_than_asked_for() -> None:
    scheduler = scheduler_of(task := a_task(prefill_chunk=10))
    run(scheduler)
    assert heard(task).read == [(0, 24), (10, 24), (20, 24), (24, 24)]


def test_one_prompt_is_read_in_a_round() -> None:
    tasks = [a_task([n, *PROMPT], prefill_chunk=25) for n in range(3)]
    scheduler = scheduler_of(*tasks)
    rounds = []
    for _ in range(4):
        before = sum(len(heard(task).read) for task in tasks)
        scheduler.round()
        rounds.append(sum(len(heard(task).read) for task in tasks) - before)
    assert rounds[0] == 4 and rounds[1:3] == [1, 1], "each was told what is kept, and one was read"


def test_a_cache_of_its_own_is_used_and_not_stored() -> None:
    network, _ = made()
    own = PromptCache(network)
    prefill(network, PROMPT[:20], own)
    scheduler = scheduler_of(task := a_task(own=own))
    run(scheduler)
    assert heard(task).read == [(20, 24), (24, 24)] and heard(task).ends == [own]
    assert own.tokens[:24] == PROMPT and len(scheduler.prefixes) == 0
    assert heard(task).ids == alone(a_task())


@pytest.mark.parametrize(("ends", "extended"), [("stop", True), ("length", False)])
def test_a_finished_turn_s_next_prompt_is_computed_while_nobody_asks(
    ends: Any, extended: bool
) -> None:
    lasting = [*PROMPT, 4, 4, 4, 4]
    scheduler = scheduler_of(task := a_task(lasting=lambda: lasting, length=5))
    run(scheduler, lambda: heard(task).ids)
    if ends == "stop":
        task.sequence.end("stop")
    run(scheduler)
    assert task.sequence.finish_reason == ends
    worked = [scheduler.round() for _ in range(3)]
    assert worked == ([True, False, False] if extended else [False] * 3)
    assert (scheduler.prefixes.idle()[0].tokens == lasting) == extended


def test_the_longest_time_between_two_steps_is_kept() -> None:
    now = [1000.0]
    scheduler = scheduler_of(task := a_task(length=9), clock=lambda: now[0])
    run(scheduler, lambda: len(heard(task).ids) == 1)
    assert scheduler.counts.longest_gap == 0.0
    for seconds in (2.0, 5.0, 3.0):
        now[0] += seconds
        scheduler.round()
    assert scheduler.counts.longest_gap == 5.0
    assert scheduler.last_round == now[0]


def test_other_work_is_done_between_the_steps() -> None:
    done: list[int] = []

    def work() -> Any:
        for n in range(3):
            done.append(n)
            yield

    scheduler = scheduler_of(waiting=1, parallel=1)
    scheduler.beside(work())
    assert scheduler.busy
    scheduler.beside(work())
    with pytest.raises(BusyError, match="2 of them"):
        scheduler.beside(work())
    assert [scheduler.round() for _ in range(8)] == [True] * 8
    assert done == [0, 0, 1, 1, 2, 2] and not scheduler.busy and scheduler.round() is False


def test_news_are_told_before_a_chunk() -> None:
    """A chunk may take long; what the last round said must not wait for it."""
    scheduler = scheduler_of(task := a_task())
    seen: list[int] = []
    scheduler.on_news = lambda: seen.append(len(heard(task).read))
    scheduler.round()
    assert seen == [1] and len(heard(task).read) == 2


def test_a_task_s_need_of_memory() -> None:
    """Its prompt and the answer, of which not all is reserved at once."""
    short, long = a_task(length=100), a_task(length=100_000)
    assert (short.rows, long.rows) == (124, 24 + 4096)
    assert (short.to_come, short.left) == (124, 24)
    scheduler = scheduler_of(short)
    run(scheduler, lambda: len(heard(short).ids) == 6)
    assert (short.to_come, short.left) == (94, -6)
    run(scheduler)
    assert short.to_come == 0


def test_eight_run_and_sixty_four_wait_unless_it_is_said_otherwise() -> None:
    tasks = [a_task() for _ in range(72)]
    scheduler = scheduler_of(*tasks)
    with pytest.raises(BusyError, match="0 running and 72 waiting"):
        scheduler.submit(a_task())
    scheduler.round()
    assert (scheduler.running, scheduler.waiting) == (8, 64)
    assert scheduler.prefixes.limit == 10**9


def test_a_stop_finds_a_task_that_is_just_being_admitted() -> None:
    """It comes from another thread, as soon as it gets the lock."""
    scheduler = scheduler_of(task := a_task(length=200))

    class Arrived(threading.Condition):
        asked = False

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            if not scheduler.waiting and not self.asked:
                self.asked = True
                stopping = threading.Thread(target=scheduler.stop_all)
                stopping.start()
                stopping.join()

    scheduler.arrived = Arrived()
    scheduler.round()
    assert task.sequence.control.stopped
    run(scheduler)
    assert scheduler.counts.ended == {"interrupted": 1}
