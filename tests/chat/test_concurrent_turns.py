"""Turns of several threads run together, and say what they would say alone."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from qwen3_mlx.chat.concurrent_turns import TurnSlot
from qwen3_mlx.chat.draft import Drafts
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.chat.turns import Turn
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.side_by_side import SideBySide
from qwen3_mlx.engine.task import Task
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.events import Done, Event, Reply, Speculation
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import CacheFormat
from tests import tiny
from tests.chat.schedules import same
from tests.threads import at_once

OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "thinking": False},
    {"seed": 1},
    {"seed": 2, "thinking_budget": 3, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    {"seed": 3, "thinking": False, "logprobs": 2},
)
PROMPTS = ("ab cde", "fghi jk ", "lmno pq r", "stu")
SECOND = "vwx yz"


class Together:
    """Threads that meet in the middle of their turns, and what steps they took from there.

    Until they have met each computes alone, and then the scheduler waits for `parties` tasks: so
    no thread must win a race.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, parties: int) -> None:
        self.have_met, self.rows = threading.Event(), list[int]()
        self.barrier = threading.Barrier(parties, self.have_met.set, timeout=60)
        submitted: list[None] = []  # a task would hold its model
        submit, act, step = Scheduler.submit, Scheduler.round, SideBySide.step
        leave = TurnSlot.leave

        def count(scheduler: Scheduler, task: Task) -> None:
            submitted.append(None)
            submit(scheduler, task)

        def wait(scheduler: Scheduler) -> bool:
            return len(submitted) >= parties and act(scheduler)

        def note(side_by_side: SideBySide, decoders: Any, waited: float) -> list[int]:
            self.rows.append(len(decoders))
            return step(side_by_side, decoders, waited)

        monkeypatch.setattr(
            TurnSlot, "leave", lambda place: self.have_met.is_set() and leave(place)
        )
        monkeypatch.setattr(Scheduler, "submit", count)
        monkeypatch.setattr(Scheduler, "round", wait)
        monkeypatch.setattr(SideBySide, "step", note)

    def met(self, events: Iterator[Event], after: int) -> list[Event]:
        """All events; all threads meet behind number `after`."""
        heard = [next(events) for _ in range(after)]
        self.barrier.wait()
        return [*heard, *events]


def long(model: Qwen3, options: dict[str, Any]) -> dict[str, Any]:
    """`options` of a turn that ends by its length."""
    return options | {
        "max_tokens": 130,
        "logit_bias": dict.fromkeys(model.tokenizer.eos_ids, -100.0),
    }


def talk(session: ChatSession, number: int, together: Together | None, after: int = 2) -> list[Any]:
    """Two turns: what was said, and how much of the second prompt was computed already."""
    options = long(Qwen3(session.runtime), OPTIONS[number % 4])
    events = session.send(PROMPTS[number % 4], **options)
    heard = list(events) if together is None else together.met(events, after)
    first = Reply.from_events(iter(heard))
    second = Reply.from_events(
        session.send(SECOND, **options | {"max_tokens": 8, "thinking_budget": None})
    )
    return [first, second, second.stats.cached_tokens, session.cache.tokens]


def agree(found: list[Any], expected: list[Any]) -> bool:
    texts = [same(one, other) for one, other in zip(found[:2], expected[:2], strict=True)]
    return all(texts) and found[2:] == expected[2:] and found[0].logprobs == expected[0].logprobs


FORMATS = [CacheFormat(8), CacheFormat(window=64)]


@pytest.mark.parametrize("cache_format", FORMATS, ids=lambda f: f"{f.bits}-{f.window}")
def test_as_alone_from_the_middle(
    cache_format: CacheFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns that were begun in their own threads, each alone."""
    model = Qwen3(replace(tiny.runtime(3, head_dim=32), cache_format=cache_format))
    expected = [talk(model.session("ab"), n, None) for n in range(4)]
    assert model.runtime.concurrent_turns._scheduler is None, "one thread needs no other"
    together = Together(monkeypatch, 4)
    found = at_once(*(partial(talk, model.session("ab"), n, together) for n in range(4)))
    assert all(map(agree, found, expected)), found
    assert max(together.rows) == 4


def test_as_alone_from_the_beginning(monkeypatch: pytest.MonkeyPatch, whole_prompts: None) -> None:
    """A Mixture of Experts; and one session more, with drafts."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    model = Qwen3(tiny.runtime(4, model_type="qwen3_moe", **experts))
    expected = [talk(model.session("ab"), n, None) for n in range(4)]
    together, done = Together(monkeypatch, 4), list[tuple[int, int]]()
    together.have_met.set()
    with model.runtime.concurrent_turns.place(joins=True):  # a turn of this thread
        acts = [partial(talk, model.session("ab"), n, None) for n in range(4)]
        found = at_once(*acts)
        assert all(map(agree, found, expected)), found
        drafting = Qwen3(replace(model.runtime, drafts=Drafts(model.runtime, None)))
        assert drafting.runtime.concurrent_turns is not model.runtime.concurrent_turns
        progress = partial(model.generate, "ab cde " * 9, on_progress=lambda *at: done.append(at))
        reply = at_once(partial(progress, prefill_chunk=16, max_tokens=3))[0]
        assert isinstance(reply, Reply) and len(done) > 2 and done == sorted(done)
        assert done[-1] == (reply.stats.prompt_tokens, reply.stats.prompt_tokens)
    with drafting.runtime.concurrent_turns.place(joins=True):
        reply = at_once(partial(drafting.generate, "ab", **OPTIONS[0], max_tokens=3))[0]
    assert reply.stats.speculation == Speculation(), "there has been no time to learn"
    assert max(together.rows) == 4


def test_one_thread_with_several_turns_open_computes_them_itself() -> None:
    model = Qwen3(tiny.runtime(3))
    turns = [model.session().send("ab", seed=n, max_tokens=10) for n in range(2)]
    for events in zip(*turns, strict=False):
        assert events
    assert model.runtime.concurrent_turns._scheduler is None


def test_what_one_suffers_the_others_do_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is interrupted, one closed, two fail; the others say what they say alone."""
    model = Qwen3(tiny.runtime(3))
    expected = [talk(model.session("ab"), n, None) for n in range(4)]
    together, sessions = Together(monkeypatch, 8), [model.session("ab") for _ in range(8)]
    faults = {6: RuntimeError("boom"), 7: RuntimeError("[malloc] Unable to allocate 9 bytes")}
    said = Turn.said

    def failing(turn: Turn, *given: Any) -> None:
        for number, fault in faults.items():
            if turn.task.own is sessions[number].cache:
                raise fault
        said(turn, *given)

    monkeypatch.setattr(Turn, "said", failing)

    def disturbed(number: int) -> Any:
        events = sessions[number].send(PROMPTS[number % 4], **long(model, OPTIONS[number % 4]))
        heard = [next(events), next(events)]
        together.barrier.wait()
        heard.append(next(events))
        if number == 4:
            sessions[4].interrupt()
        if number == 5:
            events.close()
            scheduler = model.runtime.concurrent_turns._scheduler
            assert scheduler is not None
            held = [task.own is sessions[5].cache for task in scheduler._running]
            assert not any(held), "whoever closes it may use the session at once"
        return [*heard, *events]

    acts = [partial(talk, sessions[n], n, together) for n in range(4)]
    found = at_once(*acts, *(partial(disturbed, n) for n in range(4, 8)))
    assert all(map(agree, found[:4], expected)), found
    assert isinstance(found[4][-1], Done) and found[4][-1].finish_reason == "interrupted"
    assert len(found[5]) == 3, "a turn that is closed says no more"
    assert found[6] is faults[6] and isinstance(found[7], OutOfMemoryError)
    faults.clear()
    for number in range(4, 8):  # each goes on, alone
        session, options = sessions[number], {"temperature": 0.0, "max_tokens": 8}
        fresh = model.session("ab")
        fresh.messages = [dict(message) for message in session.messages]
        replies = [Reply.from_events(one.send(SECOND, **options)) for one in (session, fresh)]
        assert same(*replies), number
        assert [layer.offset for layer in session.cache.layers] == [len(session.cache.tokens)] * 2
    assert model.runtime.concurrent_turns._scheduler is not None
    assert (
        not model.runtime.concurrent_turns._scheduler.busy
        and not model.runtime.concurrent_turns.several_threads
    )


def test_a_model_that_is_dropped_takes_its_thread_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.enumerate()  # another test's may not have ended yet
    model, together = Qwen3(tiny.runtime(3)), Together(monkeypatch, 1)
    together.have_met.set()
    with model.runtime.concurrent_turns.place(joins=True):
        assert at_once(partial(model.generate, "ab", max_tokens=3))[0].answer is not None
    network = weakref.ref(model.network)
    after = [one for one in threading.enumerate() if one.name == "scheduler"]
    (thread,) = (one for one in after if one not in before)
    del model, after
    end = time.monotonic() + 60
    while thread.is_alive() and time.monotonic() < end:
        gc.collect()  # not only once: the thread may be in the end of its last round
        thread.join(0.05)
    assert not thread.is_alive()
    del thread
    gc.collect()
    assert network() is None
