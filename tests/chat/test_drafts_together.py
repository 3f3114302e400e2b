"""Drafts of turns that run together: each says what it says alone and without them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from qwen3_mlx.chat.draft import Drafts
from qwen3_mlx.chat.turns import Reading, Turn, new_scheduler, run_all
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.side_by_side import SideBySide
from qwen3_mlx.events import Reply
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import CacheFormat
from tests import tiny
from tests.chat.any_drafts import AnyDrafts, eager
from tests.chat.schedules import asked, run_schedule, same, turn
from tests.chat.test_concurrent_turns import Together, agree, talk
from tests.threads import at_once

pytestmark = pytest.mark.usefixtures("whole_prompts")

FORMATS = (CacheFormat(), CacheFormat(8), CacheFormat(4), CacheFormat(window=64))


class Passes:
    """The rows of each sequence in every step that several were in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[list[int]] = []
        begin = SideBySide.__init__

        def noted(side: SideBySide, *given: Any, **named: Any) -> None:
            begin(side, *given, **named)
            forward = side.forward
            assert forward is not None

            def note(tokens: Any, caches: Any, new: Sequence[int]) -> Any:
                self.rows.append(list(new))
                return forward(tokens, caches, new)

            side.forward = note

        monkeypatch.setattr(SideBySide, "__init__", noted)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    with eager(at_once=7):
        yield Passes(monkeypatch)


def standing(model: Qwen3, parallel: int = 4) -> Scheduler:
    """Its clock stands, so that prompts are read in the same chunks on any machine."""
    return new_scheduler(model.runtime, parallel=parallel, clock=lambda: 100.0)


def with_any(model: Qwen3, *kinds: str) -> tuple[Qwen3, AnyDrafts]:
    drafts = AnyDrafts(model.runtime, random.Random(1), kinds)
    return Qwen3(replace(model.runtime, drafts=drafts)), drafts


@pytest.mark.parametrize("cache_format", FORMATS, ids=lambda f: f"{f.bits}-{f.window}")
def test_drafts_of_every_kind_change_nothing(cache_format: CacheFormat, passes: Passes) -> None:
    plain = Qwen3(replace(tiny.runtime(3, head_dim=32), cache_format=cache_format))
    drafting, drafts = with_any(plain, "right", "wrong", "random", "fails", "lookup", "none")
    questions = [asked(seed) for seed in range(6)]
    for number, (_, options) in enumerate(questions):
        options |= {"logprobs": 2, "prefill_chunk": 16} if number % 2 else {"prefill_chunk": 16}
    alone = [plain.generate(prompt, **options) for prompt, options in questions]
    turns = [turn(drafting, prompt, **options) for prompt, options in questions]
    together = dict(run_all(standing(drafting), turns))
    for number, reply in enumerate(alone):
        other = together[number]
        assert isinstance(other, Reply) and same(reply, other), questions[number]
        assert reply.logprobs == other.logprobs, questions[number]
    assert any(1 in rows and max(rows) > 1 for rows in passes.rows), "drafts beside others"
    assert max(map(sum, passes.rows)) <= 16
    assert sum(payoff.turn.accepted for payoff in drafts.payoffs) > 9


@pytest.mark.parametrize("seed", [0])
def test_random_arrivals_and_cancels(seed: int) -> None:
    """As ``python -m tests.chat.schedules 1000 0 drafts``."""
    run_schedule(seed, ("right", "random", "lookup", "fails"))


def test_who_is_always_right_saves_steps_and_who_never_is_none(passes: Passes) -> None:
    plain = Qwen3(tiny.runtime(3))
    steps = {}
    never = dict.fromkeys(plain.tokenizer.eos_ids, -100.0)
    options: dict[str, Any] = {
        "max_tokens": 48,
        "thinking": False,
        "temperature": 0.0,
        "logit_bias": never,
    }
    for kind in ("right", "wrong", "none"):
        drafting, drafts = with_any(plain, kind)
        passes.rows.clear()
        replies = drafting.generate_many(["ab", "cde"], **options)
        assert [reply.answer for reply in replies if isinstance(reply, Reply)] == [
            plain.generate(prompt, **options).answer for prompt in ("ab", "cde")
        ]
        steps[kind] = len(passes.rows)
        for payoff, reply in zip(drafts.payoffs, replies, strict=False):
            assert isinstance(reply, Reply)
            found = reply.stats.speculation
            assert found is not None and found.accepted == payoff.turn.accepted
            assert (found.accepted > 0, found.rounds > 0) == (kind == "right", True)
    assert steps["right"] < 0.7 * steps["none"] < steps["wrong"], steps


def test_sessions_of_several_threads(monkeypatch: pytest.MonkeyPatch, passes: Passes) -> None:
    """Begun alone with drafts, they go on together with them, and the next turns alone again."""
    plain = Qwen3(tiny.runtime(3))
    expected = [talk(plain.session("ab"), n, None) for n in range(3)]
    drafting, _ = with_any(plain, "right")
    together = Together(monkeypatch, 3)
    sessions = [drafting.session("ab") for _ in range(3)]
    found = at_once(*(partial(talk, one, n, together) for n, one in enumerate(sessions)))
    assert all(map(agree, found, expected)), found
    assert any(max(rows) > 1 for rows in passes.rows)
    for session in sessions:
        assert [layer.offset for layer in session.cache.layers] == [len(session.cache.tokens)] * 2


def test_an_answer_in_a_form_has_drafts_beside_others(passes: Passes) -> None:
    plain = Qwen3(tiny.runtime(3))
    drafting, _ = with_any(plain, "right")
    form: dict[str, Any] = {"regex": "[ab]{12}", "seed": 1, "thinking": False}
    other: dict[str, Any] = {"seed": 2, "max_tokens": 30}
    turns = [turn(drafting, "ab", **form), turn(drafting, "cde", **other)]
    found = dict(run_all(standing(drafting), turns))
    one, two = found[0], found[1]
    assert isinstance(one, Reply) and isinstance(two, Reply)
    assert same(one, plain.generate("ab", **form)) and same(two, plain.generate("cde", **other))
    for reply in (one, two):
        assert reply.stats.speculation is not None and reply.stats.speculation.accepted > 0
    assert any(min(rows) > 1 for rows in passes.rows if len(rows) == 2)


@pytest.mark.parametrize("after", (1, 2, 4))
def test_the_user_may_ask_for_the_answer_or_leave_at_any_token(after: int, passes: Passes) -> None:
    """Also between drafts that were right: what was checked behind a cut is forgotten."""
    plain = Qwen3(tiny.runtime(3))
    drafting, _ = with_any(plain, "right")
    options = {"seed": 4, "max_tokens": 100, "thinking_budget": 9}

    def disturbed(model: Qwen3) -> list[Reply]:
        turns = [turn(model, "ab", **options), turn(model, "cde", **options)]
        scheduler, heard = standing(model), dict[int, list[Any]]()
        for number, kind in enumerate(("answer", "stop")):
            _at(turns[number], after, kind)
        for one in turns:
            scheduler.submit(one.task)
        while scheduler.busy:
            scheduler.round()
        for number, one in enumerate(turns):
            heard[number] = [event for event in one if not isinstance(event, Reading)]
        assert scheduler.prefixes.idle()
        for cache in scheduler.prefixes.idle():
            assert [layer.offset for layer in cache.layers] == [len(cache.tokens)] * 2
        return [Reply.from_events(events) for events in heard.values()]

    assert all(map(same, disturbed(plain), disturbed(drafting)))


def _at(one: Turn, after: int, kind: Any) -> None:
    """Interrupt `one` as it hears of its token number `after`."""
    said, tokens = one.task.listener.said, [0]

    def counting(*given: Any) -> None:
        tokens[0] += 1
        if tokens[0] == after:
            one.interrupt(kind)
        said(*given)

    one.said = counting  # type: ignore[method-assign, assignment]


def test_a_drafter_of_a_served_turn_goes_with_it() -> None:
    """A draft model's keys and values are not kept beside the prefix."""
    plain = Qwen3(tiny.runtime(3))
    drafts = Drafts(plain.runtime, plain.runtime)
    model = Qwen3(replace(plain.runtime, drafts=drafts))
    one = turn(model, "ab", max_tokens=20)
    scheduler = standing(model)
    dict(run_all(scheduler, [one]))
    assert len(scheduler.prefixes) == 1 and not len(drafts._held) and one.task.decoder is None
    session = model.session()
    list(session.send("ab", max_tokens=5))
    assert len(drafts._held) == 1, "a session keeps its own"


def test_a_fault_in_the_pass_ends_those_in_it_alone(
    monkeypatch: pytest.MonkeyPatch, passes: Passes
) -> None:
    plain = Qwen3(tiny.runtime(3))
    drafting, _ = with_any(plain, "right")
    turns = [turn(drafting, "ab", seed=n, max_tokens=60) for n in range(3)]
    scheduler = standing(drafting, parallel=2)
    act, calls = scheduler.side_by_side.step, [0]

    def failing(*given: Any) -> list[int]:
        calls[0] += 1
        if calls[0] == 6:
            raise RuntimeError("boom")
        return act(*given)

    monkeypatch.setattr(scheduler.side_by_side, "step", failing)
    found = dict(run_all(scheduler, turns))
    assert [isinstance(found[n], RuntimeError) for n in range(3)] == [True, True, False]
    other = found[2]
    assert isinstance(other, Reply) and same(other, plain.generate("ab", seed=2, max_tokens=60))
    assert not scheduler.busy and isinstance(scheduler, Scheduler)
