"""Turns that run together say what they would say alone, whoever comes, leaves or fails."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from qwen3_mlx.chat.request import prepare
from qwen3_mlx.chat.turns import MOST_EVENTS, Reading, Turn, new_scheduler, run_all
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.scheduler_thread import SchedulerThread
from qwen3_mlx.errors import BusyError, ContextError, OptionError, OutOfMemoryError, Qwen3Error
from qwen3_mlx.events import Done, Reply
from qwen3_mlx.model import Qwen3, load
from qwen3_mlx.options import CacheFormat, GenerationOptions
from tests import tiny
from tests.chat.schedules import asked, run_schedule, same, turn

FORMATS = [CacheFormat(), CacheFormat(8), CacheFormat(window=64)]


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(3))


@pytest.mark.parametrize("cache_format", FORMATS, ids=lambda f: f"{f.bits}-{f.window}")
def test_together_as_alone(cache_format: CacheFormat) -> None:
    model = Qwen3(replace(tiny.runtime(3, head_dim=32), cache_format=cache_format))
    questions = [asked(seed) for seed in range(12)]
    alone = [model.generate(prompt, **options) for prompt, options in questions]
    turns = [turn(model, prompt, **options) for prompt, options in questions]
    together = dict(run_all(new_scheduler(model.runtime, parallel=8), turns))
    for number, reply in enumerate(alone):
        other = together[number]
        assert isinstance(other, Reply) and same(reply, other), questions[number]


@pytest.mark.parametrize("seed", range(8))
def test_random_arrivals_and_cancels(seed: int) -> None:
    """Rounds in which turns come and go; ``python -m tests.chat.schedules`` runs 1,000 of them."""
    run_schedule(seed)


def test_a_turn_that_begins_is_told_before_its_prompt_is_read(model: Qwen3) -> None:
    """Reading may take long; its client waits for a status line."""
    scheduler, one = new_scheduler(model.runtime, parallel=1), turn(model, "hi", max_tokens=5)
    told: list[tuple[int, bool]] = []
    scheduler.on_news = lambda: told.append((scheduler.running, one.task.decoder is None))
    scheduler.submit(one.task)
    scheduler.round()
    assert told == [(1, True)]


def test_a_thread_that_ends_tells_its_last_events(model: Qwen3) -> None:
    one, told = turn(model, "hi", max_tokens=900), list[int]()
    thread = SchedulerThread(lambda: new_scheduler(model.runtime, parallel=1))
    scheduler = thread.start()
    scheduler.on_news = lambda: told.append(len(one._events))
    scheduler.submit(one.task)
    while one.generated_tokens < 5:
        time.sleep(0.001)
    thread.let_go()
    thread.close()
    assert told[-1] == len(one._events) > 1


def test_generate_many(model: Qwen3) -> None:
    prompts = [asked(n)[0] for n in range(10)]
    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = {"max_tokens": 30, "seed": 7, "thinking": False}
    replies = model.generate_many(
        prompts, parallel=3, on_progress=lambda *at: seen.append(at), **options
    )
    assert seen == [(n, 10) for n in range(1, 11)]
    for prompt, reply in zip(prompts, replies, strict=True):
        assert isinstance(reply, Reply) and same(reply, model.generate(prompt, **options))
    assert model.generate_many([]) == []


def test_generate_many_keeps_the_others_where_one_fails(model: Qwen3) -> None:
    prompts = ["ab", "cd " * 2_000, "", "ef"]
    replies = model.generate_many(prompts, max_tokens=5, return_errors=True)
    kinds = [Reply, ContextError, OptionError, Reply]
    assert [type(reply) for reply in replies] == kinds
    with pytest.raises(ContextError):
        model.generate_many(prompts, max_tokens=5)
    with pytest.raises(OptionError, match="parallel"):
        model.generate_many(["a"], parallel=0)


def test_a_sequence_that_fails_fails_alone(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = turn(model, "ab", max_tokens=20, seed=1), turn(model, "cd", max_tokens=20, seed=1)
    expected = model.generate("ab", max_tokens=20, seed=1)
    heard, calls = bad.said, [0]

    def failing(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise RuntimeError("boom")
        heard(*arguments)

    monkeypatch.setattr(bad, "said", failing)
    replies = dict(run_all(new_scheduler(model.runtime), [bad, good]))
    assert isinstance(replies[0], RuntimeError)
    assert isinstance(replies[1], Reply) and same(replies[1], expected)


def test_memory_that_runs_out_in_one_sequence(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (turn(model, p, max_tokens=20, seed=1) for p in ("ab", "cd"))
    expected = model.generate("cd", max_tokens=20, seed=1)

    def short(*_: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes")

    monkeypatch.setattr(one, "said", short)
    replies = dict(run_all(new_scheduler(model.runtime), [one, two]))
    assert isinstance(replies[0], OutOfMemoryError)
    assert isinstance(replies[1], Reply) and same(replies[1], expected)


def test_what_does_not_fit_waits_and_what_never_fits_is_refused(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = new_scheduler(model.runtime)
    asked_for: list[tuple[int, bool]] = []

    def room(rows: int, promised: int, alone: bool, _prefixes: Any) -> bool:
        asked_for.append((promised, alone))
        if rows > 500:
            raise OutOfMemoryError("out of memory", got="too little")
        return alone

    monkeypatch.setattr(scheduler._admission, "room", room)
    turns = [turn(model, "ab", max_tokens=9, seed=n) for n in range(3)]
    turns.insert(1, turn(model, "ab", max_tokens=600))
    replies = dict(run_all(scheduler, turns))
    assert isinstance(replies[1], OutOfMemoryError)
    assert all(isinstance(replies[n], Reply) for n in (0, 2, 3))
    assert (0, True) in asked_for and any(promised and not alone for promised, alone in asked_for)


def test_the_real_inequality(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen3_mlx.fit import machine
    from qwen3_mlx.fit.machine import Machine

    free = [10**9]
    monkeypatch.setattr(machine, "this_machine", lambda swap=False: Machine(free[0], "free", 4))
    scheduler = new_scheduler(model.runtime)
    room, prefixes = scheduler._admission.room, scheduler.prefixes
    assert room(200, 0, True, prefixes)
    free[0] = 1_000
    assert not room(200, 100, False, prefixes)
    with pytest.raises(OutOfMemoryError, match="at 200 tokens"):
        room(200, 0, True, prefixes)


def test_a_full_queue_says_so(model: Qwen3) -> None:
    scheduler = new_scheduler(model.runtime, parallel=2, waiting=1)
    for n in range(3):
        scheduler.submit(turn(model, "ab", max_tokens=5, seed=n).task)
    late = turn(model, "ab", max_tokens=5)
    with pytest.raises(BusyError, match="waiting"):
        scheduler.submit(late.task)
    first = turn(model, "x", max_tokens=3)
    assert scheduler.position(first.task) is None


def test_a_slow_reader_pauses_alone(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = (turn(model, "ab", max_tokens=60, seed=n, thinking=False) for n in (1, 1))
    scheduler = new_scheduler(model.runtime)
    full = [True]
    monkeypatch.setattr(slow, "full", lambda: full[0])
    scheduler.submit(slow.task)
    scheduler.submit(quick.task)
    while not quick._over:
        scheduler.round()
    assert scheduler.running == 1 and slow.generated_tokens == 0 and MOST_EVENTS > 1
    assert not scheduler.round(), "nothing to do but wait"
    full[0] = False
    while not slow._over:
        scheduler.round()
    assert slow.generated_tokens == quick.generated_tokens


def test_the_next_turn_computes_its_new_message_only() -> None:
    """Also after a thought that the next prompt leaves out, and after somebody else's turn."""
    model = load("demo")
    scheduler = new_scheduler(model.runtime)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is 12 + 7?"}]
    for n in range(3):
        request = prepare(model.runtime, messages, GenerationOptions(thinking=True, seed=n))
        one = Turn(model.runtime, request, messages=messages)
        reply = dict(run_all(scheduler, [one]))[0]
        assert isinstance(reply, Reply) and reply.thinking and reply.finish_reason == "stop"
        messages = [*messages, {"role": "assistant", "content": reply.answer}]
        if n:
            new = model.template.encode(
                [{"role": "user", "content": "And 8 + 5?"}], model.tokenizer
            )
            assert reply.stats.prompt_tokens - reply.stats.cached_tokens <= len(new)
        while scheduler.round():  # idle: the next prompt, which has no thought in it
            pass
        other = turn(model, f"Sort {n}, 3, 1 please, and say hello.", max_tokens=20)
        dict(run_all(scheduler, [other]))
        messages.append({"role": "user", "content": "And 8 + 5?"})


def test_a_prefix_is_shared_with_a_turn_that_still_runs(model: Qwen3) -> None:
    scheduler = new_scheduler(model.runtime)
    prompt = "ab cd ef gh " * 20
    first = turn(model, prompt + "x", max_tokens=100, temperature=0.0)
    expected = [model.generate(prompt + end, max_tokens=100, temperature=0.0) for end in "xy"]
    scheduler.submit(first.task)
    while first.generated_tokens < 5:
        scheduler.round()
    second = turn(model, prompt + "y", max_tokens=100, temperature=0.0)
    scheduler.submit(second.task)
    while scheduler.running or scheduler.waiting:
        scheduler.round()
    replies = [
        Reply.from_events(e for e in t if not isinstance(e, Reading)) for t in (first, second)
    ]
    assert replies[1].stats.cached_tokens > 200
    assert all(same(one, other) for one, other in zip(replies, expected, strict=True))


@pytest.fixture
def thread(model: Qwen3) -> Any:
    runner = SchedulerThread(lambda: new_scheduler(model.runtime))
    yield runner
    runner.close()


def test_many_threads_ask_at_once(model: Qwen3, thread: SchedulerThread) -> None:
    scheduler: Scheduler = thread.start()
    questions = [asked(seed) for seed in range(200, 212)]
    replies: dict[int, Reply] = {}

    def ask(number: int) -> None:
        prompt, options = questions[number]
        one = turn(model, prompt, **options)
        scheduler.submit(one.task)
        replies[number] = Reply.from_events(e for e in one if not isinstance(e, Reading))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(questions))]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    thread.close()
    for number, (prompt, options) in enumerate(questions):
        assert same(replies[number], model.generate(prompt, **options))


def test_an_error_that_is_nobodys_ends_the_running_and_no_more(
    model: Qwen3, thread: SchedulerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = thread.start()
    with monkeypatch.context() as broken:
        broken.setattr(scheduler, "_admit", lambda: 1 / 0)
        one = turn(model, "ab", max_tokens=5)
        scheduler.submit(one.task)
        with pytest.raises(ZeroDivisionError):
            list(one)
    while thread.degraded:
        time.sleep(0.01)
    two = turn(model, "ab", max_tokens=5)
    scheduler.submit(two.task)
    assert isinstance(list(two)[-1], Done)
    assert thread.alive and scheduler.counts.faults >= 1


def test_closing_interrupts_what_does_not_end_in_time(
    model: Qwen3, thread: SchedulerThread
) -> None:
    scheduler = thread.start()
    bias = dict.fromkeys(model.tokenizer.eos_ids, -100.0)
    one = turn(model, "ab", max_tokens=900, seed=1, logit_bias=bias)
    scheduler.submit(one.task)
    while one.generated_tokens < 2:
        time.sleep(0.001)
    thread.close(0.0)
    events = list(one)
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "interrupted"
    assert not thread.alive


def test_what_keeps_the_scheduler_from_being_made_is_raised() -> None:
    def broken() -> Scheduler:
        raise Qwen3Error("no model")

    with pytest.raises(Qwen3Error, match="no model"):
        SchedulerThread(broken).start()


def test_the_very_first_token_may_be_a_stop_text() -> None:
    """Without a least length nothing is exempt from it."""
    model, asked = load("demo"), "What is 17 * 23?"
    options: dict[str, Any] = {"temperature": 0.0, "thinking": False, "max_tokens": 4}
    first = model.generate(asked, **options).answer[0]
    reply = model.generate(asked, stop=[first], **options)
    assert (reply.answer, reply.finish_reason, reply.stopped_by) == ("", "stop", first)
    assert reply.stats.answer_tokens == 1
    assert model.generate(asked, stop=[first], min_tokens=1, **options).answer[0] == first
