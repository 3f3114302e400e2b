"""Guided draws: their distribution, their order in a step, and when they begin."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.engine.decision import End, Inject
from qwen3_mlx.engine.decode import Decoder, run
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.options import Sampling
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests import tiny

OPEN, CLOSE, EOS, LINE = 20, 21, 23, 22
MARKERS = Markers(OPEN, CLOSE, None, frozenset({EOS}))


class Listed:
    """A matcher of one answer: at each place one of some tokens."""

    def __init__(self, *places: tuple[int, ...], log: list[str] | None = None) -> None:
        self.places, self.taken, self.log = places, list[int](), log if log is not None else []

    def mask(self) -> bytes:
        self.log.append("mask")
        here = (EOS,) if self.ended else self.places[len(self.taken)]
        return sum(1 << token for token in here).to_bytes(4, "little")

    def take(self, token: int) -> bool:
        fits = not self.ended and token in self.places[len(self.taken)]
        assert fits, f"{token} came behind {self.taken}"
        self.taken.append(token)
        return fits

    def forced(self) -> list[int]:
        left = self.places[len(self.taken) : -1]
        several = next((n for n, place in enumerate(left) if len(place) > 1), len(left))
        return [place[0] for place in left[:several]]

    @property
    def ended(self) -> bool:
        return len(self.taken) == len(self.places)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.5, top_p=1, top_k=0),
        Sampling(temperature=0.7, top_p=0.8, top_k=0),
        Sampling(temperature=1.0, top_p=1, top_k=3),
        Sampling(temperature=1.0, top_p=0.9, top_k=5, min_p=0.1),
        Sampling(temperature=1.0, top_p=1, top_k=0, presence_penalty=1.0, repetition_penalty=1.3),
        Sampling(temperature=0.0, top_p=1, top_k=0),
    ],
    ids=str,
)
def test_draws_follow_the_masked_distribution(sampling: Sampling) -> None:
    """Masked first: the filters then count among what is left. The reference is numpy's."""
    rng = np.random.default_rng(5)
    logits = (3 * rng.normal(size=32)).astype(np.float32)
    best = np.argsort(-logits)
    allowed = np.zeros(32, bool)
    allowed[best[4:20:2]] = True  # none of the likeliest four
    want = reference(logits, allowed, sampling)
    sampler = Sampler(sampling, 32, prompt=[int(best[4])], seed=4)
    sampler.observe(mx.array([int(best[6])], mx.uint32))
    row, mask = mx.array(logits)[None], mx.array(allowed)
    drawn = mx.concatenate([sampler.draw(row, mask) for _ in range(2_000)])
    counts = np.bincount(np.array(drawn), minlength=32) / 2_000
    assert counts[~allowed].sum() == 0
    assert np.abs(counts - want).sum() < 0.08
    assert (counts[want == 0] == 0).all()


def reference(logits: np.ndarray, allowed: np.ndarray, sampling: Sampling) -> np.ndarray:
    scores = logits.astype(np.float64)
    best = np.argsort(-logits)
    for token in (best[4], best[6]):
        by = sampling.repetition_penalty
        scores[token] = scores[token] / by if scores[token] > 0 else scores[token] * by
    scores[best[6]] -= sampling.presence_penalty
    scores[~allowed] = -np.inf
    if sampling.temperature == 0:
        return (np.arange(len(scores)) == scores.argmax()).astype(np.float64)
    scores /= sampling.temperature
    if sampling.top_k:
        scores[scores < np.sort(scores)[-sampling.top_k]] = -np.inf
    p = np.exp(scores - scores.max())
    p /= p.sum()
    order = np.argsort(-p)
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= sampling.top_p]] = 0
    p /= p.sum()
    p[p < sampling.min_p * p.max()] = 0
    return np.asarray(p / p.sum())


class Turn:
    """A turn of a random network whose answer follows `matcher`."""

    def __init__(
        self,
        matcher: Listed,
        *,
        seed: int = 3,
        inside: bool = False,
        opener: int | None = None,
        lead: tuple[int, ...] = (),
        least_forced: int | None = None,
        limit: int | None = None,
        max_tokens: int = 60,
    ) -> None:
        never = frozenset({EOS, 19})
        self.guide = Guide(
            matcher, 24, thinking=inside, opener=opener, lead=lead, never=never,
            least_forced=least_forced,
        )  # fmt: skip
        budget = ThinkingBudget(limit, (5, CLOSE, 6))
        self.sequence = TurnSequence(
            MARKERS, budget, max_tokens, inside=inside, closed=not inside and opener is None,
            guide=self.guide,
        )  # fmt: skip
        network, _ = tiny.network(77)
        cache = PromptCache(network)
        logits = prefill(network, [1, 2, 3], cache)
        assert logits is not None
        hot = Sampling(temperature=1.5, top_p=1, top_k=0)
        sampler = Sampler(hot, 24, [1, 2, 3], seed)
        self.decoder = Decoder(network, cache, sampler, logits, None, self.guide)

    def said(self) -> list[int]:
        return [token for ids, _ in run(self.decoder, self.sequence) for token in ids]


@pytest.mark.parametrize("least", [None, 1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_forced_tokens_change_nothing_but_the_passes(seed: int, least: int | None) -> None:
    places = ((7,), (8,), (9,), (10, 11), (12,), (13,), (14, 15))
    turn = Turn(Listed(*places), seed=seed, least_forced=least)
    passes = []
    inject = turn.decoder.inject
    turn.decoder.inject = lambda ids: (passes.append(len(ids)), inject(ids))[1]  # type: ignore[method-assign]
    said = turn.said()
    assert all(token in place for token, place in zip(said, places, strict=True))
    assert turn.sequence.finish_reason == "stop"  # complete: no end token had to be drawn
    assert turn.sequence.used == turn.sequence.answer_tokens == len(places)
    assert turn.decoder.cache.tokens == [1, 2, 3, *said]
    # the first token is drawn before anybody asks what is forced
    assert passes == ([] if least is None else [2, 2])


@pytest.mark.parametrize("most", range(1, 8))
def test_forced_tokens_never_exceed_max_tokens(most: int) -> None:
    turn = Turn(Listed(*[(n,) for n in range(7)], (8, 9)), least_forced=1, max_tokens=most)
    assert turn.said() == list(range(7))[:most]
    assert turn.sequence.finish_reason == "length"


def test_a_thought_is_free_but_cannot_end_the_turn() -> None:
    closed = 0
    for seed in range(6):
        answer = Listed((7, 8), (9,))
        turn = Turn(answer, seed=seed, inside=True, lead=(LINE, LINE), max_tokens=150)
        said = turn.said()
        assert not {EOS, 19} & set(said)
        thought, at = said, len(said)
        if CLOSE in said:
            closed, at = closed + 1, said.index(CLOSE)
            thought, rest = said[:at], said[at + 1 :]
            lines = len(rest) - 2
            assert rest[:lines] == [LINE] * lines and lines <= 2 and rest[lines:] == answer.taken
        else:
            assert turn.sequence.finish_reason == "length" and answer.taken == []
        assert turn.sequence.thinking_tokens == len(thought)
    assert closed >= 3


@pytest.mark.parametrize("seed", range(8))
def test_the_first_token_may_open_a_thought(seed: int) -> None:
    answer = Listed((7, 8), (9,))
    said = Turn(answer, seed=seed, opener=OPEN, limit=4, max_tokens=40).said()
    assert said[0] in (OPEN, 7, 8)
    assert said[-2:] == answer.taken


def test_a_cut_arms_the_answer_at_once() -> None:
    for seed in range(6):
        answer = Listed((7,), (8,))
        turn = Turn(answer, seed=seed, inside=True, limit=2, lead=(LINE,))
        said = turn.said()
        if turn.sequence.cut:
            assert said[2:5] == [5, CLOSE, 6] and said[5:] == [7, 8]
        assert turn.sequence.finish_reason == "stop"


def test_the_mask_is_made_while_the_device_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the pass of token t, read t; then the mask for t+1, while that pass is under way."""
    order: list[str] = []
    turn = Turn(Listed(*[(7, 8)] * 6, log=order))
    begin = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *a: (order.append("started"), begin(*a))[1])

    class Tokens(list[int]):
        def append(self, token: int) -> None:
            order.append("read")
            super().append(token)

    turn.decoder.cache.tokens = Tokens(turn.decoder.cache.tokens)
    turn.said()
    assert order.pop(1) == "started"  # 256 keys at once, before the first draw
    draw = ["mask", "started"]  # the draw itself
    assert order == [*draw, "started", "read"] * 6


def guide_of(*places: tuple[int, ...], **given: Any) -> Guide:
    return Guide(Listed(*places), 24, **given)


def free(guide: Guide) -> set[int]:
    """The tokens that may come next."""
    return {token for token, may in enumerate(guide.allowed().tolist()) if may}


def test_line_breaks_may_stand_between_a_thought_and_its_answer() -> None:
    guide = guide_of((7, 8), (9,), thinking=True, lead=(LINE, LINE), never=frozenset({EOS, 19, 99}))
    assert free(guide) == set(range(24)) - {EOS, 19}
    guide.take(5, True)
    guide.take(CLOSE, False)
    for _ in range(2):
        assert free(guide) == {LINE, 7, 8} and guide.forced(9) == ()
        guide.take(LINE, False)
    assert free(guide) == {7, 8}
    guide.take(8, False)
    assert free(guide) == {9} and not guide.ended
    guide.take(9, False)
    assert guide.ended


@pytest.mark.parametrize("lines", [0, 1])
def test_an_answer_may_begin_before_all_line_breaks_have_come(lines: int) -> None:
    guide = guide_of((7,), (LINE, 9), (9,), thinking=True, lead=(LINE, LINE))
    for token in (CLOSE, *[LINE] * lines, 7):
        guide.take(token, False)
    assert free(guide) == {LINE, 9}
    guide.take(LINE, False)
    assert free(guide) == {9}, "it was the answer's own"


def test_a_thought_may_open_before_an_answer_and_not_in_it() -> None:
    guide = guide_of((7,), (8,), opener=OPEN)
    assert free(guide) == {OPEN, 7} and guide.forced(9) == () and not guide.ended
    guide.take(OPEN, True)
    assert free(guide) == set(range(24))
    guide.take(CLOSE, False)
    assert free(guide) == {7}, "nor once more"
    guide = guide_of((7,), (8,), opener=OPEN)
    guide.take(7, False)
    assert free(guide) == {8}


def test_behind_a_cut_the_answer_begins_at_once() -> None:
    for given in ({"thinking": True, "lead": (LINE,)}, {"opener": OPEN}):
        guide = guide_of((7,), (8,), (9, 10), **given)
        guide.cut()
        assert free(guide) == {7} and guide.forced(9) == (7, 8)


@pytest.mark.parametrize(
    ("least", "most", "want"),
    [
        (2, 9, (7, 8, 9)), (2, 2, (7, 8)), (2, 1, ()), (1, 1, (7,)), (1, 0, ()), (1, -3, ()),
        (3, 9, (7, 8, 9)), (4, 9, ()), (None, 9, ()),
    ],
)  # fmt: skip
def test_forced_tokens_are_worth_a_pass(
    least: int | None, most: int, want: tuple[int, ...]
) -> None:
    guide = guide_of((7,), (8,), (9,), (10, 11), (12,), least_forced=least)
    assert guide.forced(most) == want
    assert guide_of((7,), (8,), (9, 10)).forced(9) == (7, 8), "two are, unless it is said otherwise"
    assert guide_of((7,), (8, 9)).forced(9) == ()


def test_forced_tokens_leave_room_for_one_more() -> None:
    guide = guide_of(*[(n,) for n in range(8)], (8, 9), least_forced=1)
    sequence = TurnSequence(MARKERS, ThinkingBudget(None, ()), 5, closed=True, guide=guide)
    assert sequence.take(0) == Inject((1, 2, 3), generated=True)
    assert (sequence.used, sequence.answer_tokens) == (4, 4)
    assert sequence.take(4) == End("length")


@pytest.mark.parametrize("size", [24, 32, 33, 64, 65])
def test_every_vocabulary_s_last_token_is_free_in_a_thought(size: int) -> None:
    guide = Guide(Listed((1,)), size, thinking=True, never=frozenset({0, 31, size - 2, size}))
    want = [n not in (0, 31, size - 2) for n in range(size)]
    assert guide.allowed().tolist() == want
