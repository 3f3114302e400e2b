"""Whatever several threads ask of models at once, each gets what it gets alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest

from qwen3_mlx.chat.draft import Drafts
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.errors import BackendError
from qwen3_mlx.events import Reply
from qwen3_mlx.model import Qwen3
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


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("by_session", [False, True])
def test_a_stream_that_another_thread_goes_on_with_says_so(drafts: bool, by_session: bool) -> None:
    """As a web framework reads a generator. The model and the session can be used afterwards."""
    model = model_with(drafts)
    session = model.session("cde")
    begin = session.send if by_session else model.stream
    stream = begin("ab", **(SAMPLED | {"min_tokens": 12}))
    next(stream)

    def go_on() -> None:
        with pytest.raises(BackendError, match=r"in another thread.*\n.*queue"):
            list(stream)

    assert at_once(go_on) == [None]
    assert list(stream) == []
    again = session.send("ab", **SAMPLED) if by_session else model.stream("ab", **SAMPLED)
    assert Reply.from_events(again).finish_reason in ("stop", "length")
