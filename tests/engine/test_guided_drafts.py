"""Drafts of answers that follow a grammar: right is what the grammar lets the target draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest

from qwen3_mlx.engine.decode import Decoder, run
from qwen3_mlx.engine.draft import way_to_check
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.guided_drafts import decoder_of
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, Sampling
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests import tiny
from tests.engine import draft_cases
from tests.engine.draft_cases import MARKERS, VOCABULARY, Always, Places, Told

ALL = [token for token in range(VOCABULARY) if token not in (*MARKERS.eos, 5, 20)]


@cache
def network() -> Qwen3Network:
    """Made by the first test: a process that has computed can't be forked (`tests.mutate`)."""
    return tiny.network(77)[0]


@pytest.mark.parametrize("number", range(12))
def test_a_turn_says_the_same_with_drafts(number: int) -> None:
    """Behind thoughts, budgets and cuts, of every cache; forced tokens among them."""
    draft_cases.run_case(number, draft_cases.guided)


def started(
    places: Sequence[Sequence[int]], told: Sequence[int] | None, payoff: Any, seed: int = 0
) -> tuple[Decoder, TurnSequence]:
    budget = ThinkingBudget(None, (3,), (8,))
    guide = Guide(Places(places), VOCABULARY, least_forced=None)
    sequence = TurnSequence(MARKERS, budget, 200, guide=guide)
    cache, prompt = PromptCache(network()), [1, 2, 3]
    logits = prefill(network(), prompt, cache)
    check, _ = way_to_check(network(), AS_COMPUTED)
    assert logits is not None and check is not None
    speculating = Speculating(Told(told, "right", 3), check, payoff) if told is not None else None
    sampler = Sampler(Sampling(1.5, 1, 0), VOCABULARY, prompt, seed)
    return decoder_of(sequence, cache, sampler, logits, None, speculating), sequence


def said(decoder: Decoder, sequence: TurnSequence) -> list[int]:
    return [token for ids, _ in run(decoder, sequence) for token in ids]


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    successive = type(network()).successive

    def noted(network: Any, tokens: mx.array, cache: Any) -> mx.array:
        found.append(len(tokens))
        return successive(network, tokens, cache)

    monkeypatch.setattr(type(network()), "successive", noted)
    return found


def test_right_drafts_save_passes_and_are_counted_once_they_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = [ALL] * 24
    expected = said(*started(places, None, None))
    checks, payoff = passes(monkeypatch), Always(many=3)
    assert said(*started(places, expected, payoff)) == expected
    assert len(checks) == payoff.turn.rounds == 6
    assert payoff.turn.accepted == 24 - 6


def test_what_the_grammar_does_not_take_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draft fits, two do not: the pass has the token drawn and one draft."""
    places = [ALL, ALL, [9, 10], [11, 12], *[[13, 14]] * 8]
    expected = said(*started(places, None, None))
    told = [*expected[:2], 1, 1, 1, 1, 1, 1]
    checks = passes(monkeypatch)
    assert said(*started(places, told, Always(many=3))) == expected
    assert checks and set(checks) == {2}


def test_a_turn_that_is_cut_leaves_nothing_behind() -> None:
    places = [ALL] * 24
    expected = said(*started(places, None, None))
    payoff = Always(many=7)
    decoder, sequence = started(places, expected, payoff)
    heard = []
    for ids, _ in run(decoder, sequence):
        heard += ids
        if len(heard) == 3:
            decoder.settle()
            assert not decoder.ready and payoff.turn.accepted == 2
            held = [layer.offset for layer in decoder.cache.layers]
            assert held == [len(decoder.cache.tokens)] * len(held)
    assert heard == expected


def test_a_draft_model_draws_what_the_grammar_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target drafts for itself: without the grammar it would rarely be right."""
    places = [[token, token + 1] for token in (8, 10, 12, 14) * 6]
    expected = said(*started(places, None, None))
    checks = passes(monkeypatch)
    decoder, sequence = started(places, expected, payoff := Always(many=7))
    assert isinstance(decoder, SpeculativeDecoder)
    drafter = DraftModel(PromptCache(network()))
    decoder.speculating = replace(decoder.speculating, drafter=drafter)
    assert said(decoder, sequence) == expected
    assert len(checks) == 3 and payoff.turn.accepted == 21


def test_how_many_of_some_tokens_a_guide_takes() -> None:
    guide = Guide(Places([[1, 2], [3], [4]]), VOCABULARY)
    assert [guide.fitting(ids) for ids in ([1, 3, 4, 9], [1, 4], [9], [2, 3], [])] == [
        3,
        1,
        0,
        2,
        0,
    ]
    thinking = Guide(Places([[1]]), VOCABULARY, thinking=True)
    assert thinking.fitting([9, 9, 9]) == 3
    opening = Guide(Places([[1]]), VOCABULARY, opener=20)
    assert opening.fitting([20, 9]) == 2
    assert guide.forced(9) == (), "nothing was taken"
