"""Whatever several threads ask of models at once, each gets what it gets alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest
from starlette.concurrency import iterate_in_threadpool

from qwen3_mlx.chat.concurrent_turns import ConcurrentTurns, TurnSlot
from qwen3_mlx.chat.draft import Drafts
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.errors import BackendError
from qwen3_mlx.events import Event, Reply
from qwen3_mlx.model import Qwen3, load
from tests import tiny
from tests.chat.schedules import same
from tests.threads import at_once

pytestmark = pytest.mark.usefixtures("whole_prompts")

GREEDY: dict[str, Any] = {"temperature": 0.0, "thinking": False, "max_tokens": 12}
SAMPLED: dict[str, Any] = {"seed": 3, "thinking": False, "max_tokens": 12}
PROMPTS = ("ab", "cde", "fghi")


def model_with(drafts: bool) -> Qwen3:
    runtime = tiny.runtime(3)
    return Qwen3(replace(runtime, drafts=Drafts(runtime, runtime)) if drafts else runtime)


@pytest.mark.parametrize("drafts", [False, True])
def test_many_lists_beside_sessions_and_warming(drafts: bool) -> None:
    """`generate_many` from two threads, a session's turns and `warm` from two others."""
    model = model_with(drafts)
    plain = Qwen3(tiny.runtime(3))
    many = [plain.generate(prompt, **GREEDY) for prompt in PROMPTS]
    sampled = [plain.generate(prompt, **SAMPLED) for prompt in PROMPTS]
    expected = [Reply.from_events(one.send("ab", **GREEDY)) for one in [plain.session("cde")]]
    talking, warming = model.session("cde"), model.session("fghi jk")

    def talk() -> list[Reply]:
        talking.warm_in_background()
        return [Reply.from_events(talking.send("ab", **GREEDY))]

    def warm() -> list[Reply]:
        assert warming.warm() >= 0 and warming.warm() == 0
        return []

    found = at_once(
        partial(model.generate_many, PROMPTS, parallel=2, **GREEDY),
        partial(model.generate_many, PROMPTS, parallel=3, **SAMPLED),
        *(talk, warm),
    )
    for replies, wanted in zip(found, (many, sampled, expected, []), strict=True):
        assert isinstance(replies, list), replies
        assert all(map(same, replies, wanted)) and len(replies) == len(wanted)
    fresh = plain.session("fghi jk")
    replies = [Reply.from_events(one.send("ab", **GREEDY)) for one in (warming, fresh)]
    assert same(*replies) and replies[0].stats.cached_tokens > 0
    assert not model.runtime.concurrent_turns.several_threads and BACKGROUND.wait(60)


def test_a_list_asked_for_while_another_is_under_way() -> None:
    """In the callback of the first: the thread is in the middle of a round of the others."""
    model = model_with(False)
    inner: list[Any] = []

    def again(*_done: int) -> None:
        if not inner:
            inner.extend(model.generate_many(PROMPTS[:2], **SAMPLED))

    outer = model.generate_many(PROMPTS, parallel=2, on_progress=again, **GREEDY)
    for replies, options in ((outer, GREEDY), (inner, SAMPLED)):
        for prompt, reply in zip(PROMPTS, replies, strict=False):
            assert isinstance(reply, Reply) and same(reply, model.generate(prompt, **options))
    assert len(inner) == 2


@contextmanager
def trace_held() -> Iterator[None]:
    """Another thread is inside `mx.compile`, from here to the end."""
    inside, leave, made = threading.Event(), threading.Event(), list[Any]()

    def held(x: mx.array) -> mx.array:
        inside.set()
        assert leave.wait(120)
        return x + 1

    thread = threading.Thread(target=lambda: made.append(mx.compile(held)(mx.zeros(2)).tolist()))
    thread.start()
    assert inside.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join()
    assert made == [[1.0, 1.0]], "and it computes what it would"


@pytest.mark.parametrize("drafts", [False, True])
def test_a_thread_inside_a_trace_holds_nobody_up(drafts: bool) -> None:
    """MLX's mark of tracing is the thread's own, in every version that is allowed.

    A prompt, steps, a draft model, warming, and a list are computed meanwhile, and new functions
    traced.
    """
    model, plain = model_with(drafts), Qwen3(tiny.runtime(3))
    expected = [plain.generate(prompt, **SAMPLED) for prompt in PROMPTS]
    with trace_held():
        session = model.session("cde")
        assert session.warm() > 0
        session.warm_in_background()
        assert BACKGROUND.wait(60)
        assert Reply.from_events(session.send("ab", **GREEDY)).stats.answer_tokens
        found = model.generate_many(PROMPTS, **SAMPLED)
        assert mx.compile(lambda x: x * 2)(mx.ones(2)).tolist() == [2.0, 2.0]
    assert all(isinstance(a, Reply) and same(a, b) for a, b in zip(found, expected, strict=True))


ONWARD: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "penalties": SAMPLED | {"presence_penalty": 1.0, "repetition_penalty": 1.2},
    "a bias and a least length": SAMPLED | {"logit_bias": {5: 2.0}, "min_tokens": 9},
    "logprobs": SAMPLED | {"logprobs": 3},
    "a stop text": SAMPLED | {"stop": ["e"], "min_tokens": 3},
    "a budget": {"seed": 3, "thinking": True, "thinking_budget": 3, "max_tokens": 120},
    "a form": SAMPLED | {"regex": "[a-f]{9}", "presence_penalty": 1.0, "frequency_penalty": 0.3},
}


def read_by(next_thread: Callable[[], Executor], stream: Iterator[Event]) -> list[Event]:
    """Each event asked for in a thread of `next_thread`."""
    found: list[Event] = []
    while True:
        with next_thread() as thread:
            event = thread.submit(next, stream, None).result()
        if event is None:
            return found
        found.append(event)


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("options", ONWARD.values(), ids=ONWARD)
def test_a_stream_may_be_read_on_in_other_threads(drafts: bool, options: dict[str, Any]) -> None:
    """Those that ended before are gone, with their part of MLX; a next turn goes on from it."""
    model, plain = model_with(drafts), Qwen3(tiny.runtime(3))
    mine, wanted = model.session("cde"), plain.session("cde")
    for prompt in ("ab", "fghi"):
        expected = Reply.from_events(wanted.send(prompt, **options))
        events = read_by(lambda: ThreadPoolExecutor(1), mine.send(prompt, **options))
        assert same(Reply.from_events(events), expected)
        assert mine.messages == wanted.messages
    reply = Reply.from_events(mine.send("cde", **GREEDY))
    assert same(reply, Reply.from_events(wanted.send("cde", **GREEDY)))


@pytest.mark.parametrize("kv", [{}, {"kv_bits": 8}, {"kv_window": 64}], ids=str)
def test_so_it_may_with_every_cache(kv: dict[str, int]) -> None:
    model = load("demo", **kv)
    options = {"seed": 1, "thinking_budget": 20, "max_tokens": 60}
    expected = model.generate("What is 17 * 23?", **options)
    events = read_by(lambda: ThreadPoolExecutor(1), model.stream("What is 17 * 23?", **options))
    assert same(Reply.from_events(events), expected)


def test_a_web_framework_s_reader() -> None:
    """Starlette's, and so FastAPI's StreamingResponse: any thread of a pool, several at once."""
    model = model_with(False)
    expected = [model.generate(prompt, **SAMPLED) for prompt in PROMPTS]

    async def reply(prompt: str) -> Reply:
        return Reply.from_events(
            [event async for event in iterate_in_threadpool(model.stream(prompt, **SAMPLED))]
        )

    async def together() -> list[Reply]:
        return await asyncio.gather(*map(reply, PROMPTS))

    assert all(map(same, asyncio.run(together()), expected))


@pytest.mark.parametrize("drafts", [False, True])
def test_a_stream_that_another_thread_closes(drafts: bool) -> None:
    """Whoever read it last: the session keeps what was shown, and the next turn is as ever."""
    model = model_with(drafts)
    session = model.session("cde")
    stream = session.send("ab", **(SAMPLED | {"min_tokens": 12}))
    seen = next(stream)
    assert at_once(partial(next, stream))[0] and at_once(stream.close) == [None]
    assert list(stream) == [] and seen
    assert session.messages[-1]["role"] == "assistant"
    again = Reply.from_events(session.send("ab", **SAMPLED))
    assert again.finish_reason in ("stop", "length")


def test_a_group_s_stream_stays_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its machines compute each pass together, in the thread that began the turn."""
    assert [TurnSlot(ConcurrentTurns(), joins).move() for joins in (True, False)] == [True, False]
    monkeypatch.setattr(TurnSlot, "move", lambda _: False)
    model = model_with(False)
    stream = model.stream("ab", **(SAMPLED | {"min_tokens": 12}))
    next(stream)

    def go_on() -> None:
        with pytest.raises(BackendError, match=r"in another thread.*\n.*queue"):
            list(stream)

    assert at_once(go_on) == [None]
    assert list(stream) == []
    assert Reply.from_events(model.stream("ab", **SAMPLED)).finish_reason in ("stop", "length")
