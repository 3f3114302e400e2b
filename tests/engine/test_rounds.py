"""What one round of a scheduler does for each of its tasks, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.engine.draft import way_to_check
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.fair import ALONE_SECONDS, CHUNK_SECONDS, ChunkPace
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.memory_admission import Admission
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.speculative import Speculating
from qwen3_mlx.options import AS_COMPUTED
from tests.engine.draft_cases import Always, Places
from tests.engine.test_scheduler import PROMPT, a_task, alone, heard, made, run, scheduler_of


def test_who_has_read_its_prompt_steps_at_once_alone_and_next_round_beside_others() -> None:
    """One more row may need a kernel that is not compiled: the others don't wait for it."""
    scheduler = scheduler_of(first := a_task(PROMPT[:9], length=20))
    scheduler.round()
    assert heard(first).read[-1] == (9, 9) and len(heard(first).ids) == 1
    scheduler.submit(second := a_task([5, *PROMPT[:9]], length=20))
    scheduler.round()
    assert heard(second).read[-1] == (10, 10) and len(heard(second).ids) == 0
    assert len(heard(first).ids) == 2
    scheduler.round()
    assert len(heard(second).ids) == 1 and len(heard(first).ids) == 3


def test_who_is_stopped_reads_nothing_more_and_says_one_token_more() -> None:
    scheduler = scheduler_of(saying := a_task(length=20))
    run(scheduler, lambda: len(heard(saying).ids) == 2)
    scheduler.submit(reading := a_task([5, *PROMPT], prefill_chunk=5))
    scheduler.round()
    assert len(heard(saying).ids) == 3 and heard(reading).read == [(0, 25), (5, 25)]
    for task in (saying, reading):
        task.sequence.control.interrupt("stop")
    scheduler.round()
    assert len(heard(saying).ids) == 4 and len(heard(reading).read) == 2
    assert len(heard(saying).ends) == len(heard(reading).ends) == 1
    assert {t.sequence.finish_reason for t in (saying, reading)} == {"interrupted"}
    assert not scheduler.busy


def test_nothing_is_read_in_the_round_whose_step_copies_a_cache() -> None:
    """Who answers would wait for both; who is full and doesn't step counts for nothing."""
    scheduler = scheduler_of(saying := a_task(length=300))
    run(scheduler, lambda: len(heard(saying).ids) == 2)
    scheduler.submit(reading := a_task([5, *PROMPT, *PROMPT * 20], prefill_chunk=1))
    assert saying.cache is not None
    read_before = []
    while heard(saying).read[-1][1] + len(heard(saying).ids) < 262:
        before, rows = len(heard(reading).read), saying.cache.layers[0].state[0].shape[2]
        scheduler.round()
        grew = saying.cache.layers[0].state[0].shape[2] > rows
        assert grew == (len(heard(reading).read) == before)
        read_before.append(grew)
    assert read_before.count(True) == 1
    listener: Any = saying.listener
    listener.full = lambda: True
    saying.cache.grows = lambda tokens: True  # type: ignore[method-assign]
    before = len(heard(reading).read)
    for _ in range(4):
        scheduler.round()
    assert len(heard(reading).read) == before + 4


def test_a_prompt_is_read_between_steps_of_other_work() -> None:
    done: list[int] = []

    def work() -> Any:
        while True:
            done.append(1)
            yield

    scheduler = scheduler_of(task := a_task(prefill_chunk=4))
    scheduler.beside(work())
    for _ in range(6):
        scheduler.round()
    assert len(done) == 3 and heard(task).read[-1] == (12, 24)
    run(scheduler, lambda: heard(task).ids)
    before = len(done)
    for _ in range(3):
        scheduler.round()
    assert len(done) == before + 3, "nothing is left to be read"


def test_chunks_are_long_while_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    size = ChunkPace.size

    def noted(pace: ChunkPace, seconds: float, *more: int) -> int:
        given.append(seconds)
        return size(pace, seconds, *more)

    monkeypatch.setattr(ChunkPace, "size", noted)
    scheduler = scheduler_of(a_task(PROMPT[:9], length=40), clock=lambda: 100.0)
    scheduler.round()
    scheduler.submit(a_task([5, *PROMPT[:9]]))
    scheduler.round()
    assert given == [ALONE_SECONDS, CHUNK_SECONDS]


@pytest.mark.parametrize("answer", [True, False])
def test_memory_is_asked_for_unless_a_conversation_runs_alone(
    answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, bool]] = []

    def room(_: Admission, rows: int, promised: int, alone: bool, prefixes: object) -> bool:
        asked.append((rows, promised, alone))
        return answer

    monkeypatch.setattr(Admission, "room", room)
    network, _ = made()
    scheduler = scheduler_of(first := a_task(length=40, own=PromptCache(network)))
    scheduler.round()
    assert asked == [] and scheduler.running == 1
    second = a_task([5, *PROMPT], length=7, own=PromptCache(network))
    scheduler.submit(second)
    promised = first.to_come
    scheduler.round()
    assert asked == [(32, promised, False)]
    assert (scheduler.running, scheduler.waiting) == ((2, 0) if answer else (1, 1))
    scheduler = scheduler_of(a_task())
    scheduler.round()
    assert asked[-1] == (28, 0, True) and scheduler.running == answer


def test_what_can_never_run_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = ValueError("too long")

    def room(_: Admission, rows: int, *more: object) -> bool:
        if rows > 100:
            raise fault
        return True

    monkeypatch.setattr(Admission, "room", room)
    scheduler = scheduler_of(long := a_task(length=100), short := a_task())
    run(scheduler)
    assert heard(long).errors == [fault] and heard(short).ids == alone(a_task())
    assert scheduler.counts.failed == 1


def test_forced_tokens_count_as_generated() -> None:
    task = a_task(length=30)
    places = [[n] for n in range(6)]
    task.sequence.guide = Guide(Places([*places, [7, 8], [9]]), 24)
    scheduler = scheduler_of(task)
    run(scheduler)
    assert heard(task).ids[:6] == list(range(6)) and task.sequence.finish_reason == "stop"
    assert ((1, 2, 3, 4, 5), True) in heard(task).said_ids
    assert scheduler.counts.generated_tokens == len(heard(task).ids) == 8


def test_a_grammar_that_fails_ends_its_own_task_alone() -> None:
    class Fails(Places):
        def mask(self) -> bytes:
            if self.at == 2:
                raise RuntimeError("no mask")
            return super().mask()

    bad, good = a_task(length=20), a_task([5, *PROMPT], length=20)
    bad.sequence.guide = Guide(Fails([[1, 2]] * 9), 24)
    scheduler = scheduler_of(bad, good)
    run(scheduler)
    assert str(heard(bad).errors[0]) == "no mask" and len(heard(bad).ids) == 2
    assert heard(good).ids == alone(a_task([5, *PROMPT], length=20))


def test_right_drafts_are_said_in_the_step_that_checked_them() -> None:
    network, _ = made()
    check, _ = way_to_check(network, AS_COMPUTED)
    assert check is not None

    def drafting(cache: PromptCache) -> Speculating:
        assert check is not None
        return Speculating(DraftModel(PromptCache(network)), check, Always(many=3))

    scheduler = scheduler_of(task := a_task(length=21, drafting=drafting))
    run(scheduler)
    assert heard(task).ids == alone(a_task(length=21))
    assert scheduler.counts.generated_tokens == 21 and scheduler.counts.steps == 6


def test_idle_rounds_learn_the_pace_after_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    scheduler = scheduler_of(task := a_task(PROMPT[:9], length=2))

    def work(name: str, times: int) -> Any:
        left = [True] * times

        def done() -> bool:
            order.append(name)
            return bool(left) and left.pop()

        return done

    monkeypatch.setattr(scheduler.side_by_side, "get_ready", work("kernels", 1))
    monkeypatch.setattr(scheduler._reader, "get_ready", work("pace", 2))
    scheduler.when_idle = work("trial", 0)
    run(scheduler, lambda: not scheduler.busy)
    assert heard(task).ends and order == [], "while a task runs nothing else does"
    while scheduler.round():
        pass
    assert order == ["kernels", *["kernels", "pace"] * 2, "kernels", "pace", "trial"]
