"""Sampling against transformers' processors, and the draws against the distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.engine.logit_filters import distribution
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.options import CODER, NOT_THINKING, THINKING, Sampling

GOLDEN = Path(__file__).parents[1] / "golden" / "samplers.npz"
OFF = Sampling(temperature=1.0, top_p=1.0, top_k=0)
SMALL = 1e-30  # below, float32 probabilities vanish by themselves


class Case(NamedTuple):
    """One golden: arrays are [B, V]."""

    sampling: Sampling
    logits: mx.array
    seen: mx.array
    generated: mx.array
    want: np.ndarray
    tied: bool


def cases() -> Iterator[Case]:
    """Yield the goldens that tests/golden/make_samplers.py wrote."""
    with np.load(GOLDEN) as file:
        data = {name: file[name] for name in file.files}
    flat = len(data["logits"])
    masks = {n: np.unpackbits(data[n], count=flat).astype(bool) for n in ("seen", "generated")}
    at = 0
    for (batch, vocab), numbers, tied in zip(
        data["shape"], data["numbers"].tolist(), data["tied"], strict=True
    ):
        end = at + batch * vocab

        def cut(x: np.ndarray, part: slice = slice(at, end), rows: int = batch) -> np.ndarray:
            return x[part].reshape(rows, -1)

        temperature, top_p, top_k, min_p, presence, repetition = numbers
        yield Case(
            Sampling(temperature, top_p, int(top_k), min_p, presence, repetition),
            mx.array(cut(data["logits"]).astype(np.float32) / 256),
            mx.array(cut(masks["seen"])),
            mx.array(cut(masks["generated"])),
            cut(data["probabilities"]).astype(np.float64),
            bool(tied),
        )
        at = end
    assert at == flat


CASES = list(cases())


def probabilities(case: Case, **changes: Any) -> np.ndarray:
    got = distribution(case.logits, replace(case.sampling, **changes), case.seen, case.generated)
    assert got.dtype == mx.float32
    assert got.shape == case.logits.shape
    return np.array(got).astype(np.float64)


def variation(got: np.ndarray, want: np.ndarray) -> float:
    """Return the total variation of the worst row; NaN passes nothing."""
    return float(np.max(np.abs(got - want).sum(axis=-1) / 2))


def compare(case: Case, got: np.ndarray) -> float:
    """Return the total variation; where top_p cuts a tie, either of the equals may stay."""
    if case.tied:
        return variation(np.sort(got), np.sort(case.want))
    return variation(got, case.want)


def test_there_are_200_cases() -> None:
    assert len(CASES) == 200
    assert sum(case.tied for case in CASES) >= 5


@pytest.mark.parametrize("number", range(200))
def test_distribution_equals_transformers(number: int) -> None:
    case = CASES[number]
    got = probabilities(case)
    assert compare(case, got) <= 1e-6
    if not case.tied:
        assert (got > 0)[case.want > SMALL].all()
        assert (case.want > 0)[got > SMALL].all()


MISTAKES: dict[str, dict[str, Any]] = {
    "temperature ignored": {"temperature": 1.0},
    "top_p ignored": {"top_p": 1.0},
    "top_k ignored": {"top_k": 0},
    "min_p ignored": {"min_p": 0.0},
    "presence penalty ignored": {"presence_penalty": 0.0},
    "repetition penalty ignored": {"repetition_penalty": 1.0},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_ignored_number_would_be_seen(mistake: str) -> None:
    changes = MISTAKES[mistake]
    ((name, off),) = changes.items()
    on = [case for case in CASES if getattr(case.sampling, name) != off]
    wrong = [compare(case, probabilities(case, **changes)) > 1e-6 for case in on]
    assert sum(wrong) >= 20, f"only {sum(wrong)} of {len(on)} cases depend on {name}"


def test_another_order_would_be_seen() -> None:
    """top_p before the temperature, as mlx-lm and llama.cpp have it."""
    wrong = 0
    for case in CASES:
        s = case.sampling
        if s.temperature == 1 or s.top_p == 1:
            continue
        plain = distribution(
            case.logits, replace(s, temperature=1.0, min_p=0.0), case.seen, case.generated
        )
        scores = mx.log(plain)
        got = distribution(scores, replace(OFF, temperature=s.temperature, min_p=s.min_p))
        wrong += compare(case, np.array(got).astype(np.float64)) > 1e-6
    assert wrong >= 10


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("sampling", [THINKING, NOT_THINKING, CODER, OFF])
def test_probabilities_are_computed_in_float32(sampling: Sampling, dtype: mx.Dtype) -> None:
    logits = (4 * mx.random.normal((2, 300), key=mx.random.key(1))).astype(dtype)
    got, want = distribution(logits, sampling), distribution(logits.astype(mx.float32), sampling)
    assert got.dtype == mx.float32
    assert mx.array_equal(got, want)


@pytest.mark.parametrize("sampling", [THINKING, NOT_THINKING, OFF, replace(OFF, min_p=0.1)])
def test_a_forbidden_token_stays_forbidden(sampling: Sampling) -> None:
    logits = mx.array([[1.0, -math.inf, 2.0, -math.inf, 0.5]])
    got = np.array(distribution(logits, sampling))[0]
    assert got[1] == got[3] == 0
    assert got.sum() == pytest.approx(1, abs=1e-6)


def test_logits_far_apart_do_not_overflow() -> None:
    logits = mx.array([[3e4, -3e4, 0.0, 2.9e4]])
    got = np.array(distribution(logits, replace(THINKING, temperature=0.01)))
    assert got.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_the_penalties_by_hand() -> None:
    logits = mx.array([[2.0, -2.0, 2.0, -2.0, 1.0]])
    seen = mx.array([[True, True, False, False, False]])
    generated = mx.array([[True, False, False, False, True]])
    sampling = replace(OFF, repetition_penalty=2.0, presence_penalty=0.5)
    got = np.array(distribution(logits, sampling, seen, generated))[0]
    scores = np.array([2.0 / 2 - 0.5, -2.0 * 2, 2.0, -2.0, 1.0 - 0.5])
    want = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_penalty_without_history_does_nothing() -> None:
    logits = mx.random.normal((1, 50), key=mx.random.key(2))
    sampling = replace(OFF, repetition_penalty=1.5, presence_penalty=1.5)
    assert mx.array_equal(distribution(logits, sampling), distribution(logits, OFF))


def test_temperature_zero_is_the_largest_logit_and_the_lowest_id_of_equals() -> None:
    logits = mx.array([[0.0, 3.0, 1.0, 3.0, 3.0], [5.0, 5.0, 5.0, 5.0, 5.0]])
    greedy = Sampling(temperature=0.0, top_p=0.5, top_k=3, min_p=0.2)
    want = [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert np.array(distribution(logits, greedy)).tolist() == want
    for row, best in ((0, 1), (1, 0)):
        assert Sampler(greedy, 5).draw(logits[row : row + 1]).tolist() == [best]


def test_greedy_listens_to_the_penalties() -> None:
    logits = mx.array([[0.0, 3.0, 2.5]])
    sampler = Sampler(replace(OFF, temperature=0.0, presence_penalty=1.0), 3)
    drawn = []
    for _ in range(4):
        token = sampler.draw(logits)
        sampler.observe(token)
        drawn += token.tolist()
    assert drawn == [1, 2, 1, 1]
    prompted = Sampler(replace(OFF, temperature=0.0, repetition_penalty=2.0), 3, prompt=[1])
    assert prompted.draw(logits).tolist() == [2]


def draws(
    sampling: Sampling, logits: mx.array, count: int, seed: int | None, observe: bool = False
) -> list[int]:
    sampler = Sampler(sampling, logits.shape[-1], prompt=[0, 2], seed=seed)
    tokens = []
    for _ in range(count):
        token = sampler.draw(logits)
        assert token.shape == (1,)
        if observe:
            sampler.observe(token)
        tokens.append(token)
    return [int(t) for t in mx.concatenate(tokens).tolist()]


FILTERS = {
    "nothing": OFF,
    "top_k": replace(OFF, top_k=4),
    "top_p": replace(OFF, top_p=0.8, temperature=0.7),
    "min_p": replace(OFF, min_p=0.1, temperature=1.5),
    "all": Sampling(0.9, 0.95, 6, 0.02, 0.0, 1.3),
}


@pytest.mark.parametrize("name", FILTERS)
def test_draws_follow_the_distribution(name: str) -> None:
    """Chi-square with a fixed seed; a right sampler fails one seed in ten thousand."""
    logits = mx.array([[1.0, 0.2, -0.5, 2.0, 0.0, -3.0, 1.5, 0.7]])
    seen = mx.array([[token in (0, 2) for token in range(8)]])
    want = np.array(distribution(logits, FILTERS[name], seen))[0]
    count = 4000
    got = np.bincount(draws(FILTERS[name], logits, count, seed=11), minlength=8)
    assert got[want == 0].sum() == 0
    kept = want > 0
    chi = float(((got[kept] - count * want[kept]) ** 2 / (count * want[kept])).sum())
    critical = {2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9, 7: 29.9}[int(kept.sum()) - 1]
    assert chi <= critical
    shifted = np.roll(got, 1)[kept]  # and the test can tell another distribution
    assert ((shifted - count * want[kept]) ** 2 / (count * want[kept])).sum() > critical


def test_successive_draws_are_independent() -> None:
    """The pairs of neighbouring draws are as even as single draws."""
    tokens = draws(OFF, mx.zeros((1, 4)), 4001, seed=3)
    pairs = np.zeros((4, 4))
    for a, b in pairwise(tokens):
        pairs[a, b] += 1
    chi = float(((pairs - 250) ** 2 / 250).sum())
    assert chi <= 44.3  # 15 degrees of freedom, one in ten thousand


@pytest.mark.parametrize("name", FILTERS)
def test_seeds(name: str) -> None:
    logits = mx.random.normal((1, 40), key=mx.random.key(5))
    first = draws(FILTERS[name], logits, 300, seed=7, observe=True)
    assert draws(FILTERS[name], logits, 300, seed=7, observe=True) == first
    assert draws(FILTERS[name], logits, 300, seed=8, observe=True) != first
    assert draws(FILTERS[name], logits, 300, seed=2**63 - 1, observe=True) != first


def test_seeds_do_not_touch_the_global_random_state() -> None:
    logits = mx.random.normal((1, 40), key=mx.random.key(5))
    mx.random.seed(1)
    first = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(1)
    draws(OFF, logits, 5, seed=7)
    assert mx.random.uniform(shape=(3,)).tolist() == first


def test_without_a_seed_draws_differ() -> None:
    """Two runs of 60 draws from 40 even tokens agree once in 40^60."""
    logits = mx.zeros((1, 40))
    assert draws(OFF, logits, 60, seed=None) != draws(OFF, logits, 60, seed=None)


def test_observed_tokens_are_what_the_goldens_call_seen_and_generated() -> None:
    logits = mx.random.normal((1, 12), key=mx.random.key(9))
    sampling = replace(OFF, temperature=0.0, repetition_penalty=3.0, presence_penalty=2.0)
    sampler = Sampler(sampling, 12, prompt=[4, 4, 1])
    seen, generated = {4, 1}, set()
    for _ in range(8):
        masks = [mx.array([[t in group for t in range(12)]]) for group in (seen, generated)]
        want = int(mx.argmax(distribution(logits, sampling, *masks)).item())
        token = sampler.draw(logits)
        assert token.tolist() == [want]
        sampler.observe(token)
        seen.add(want)
        generated.add(want)
    assert len(generated) > 1


def test_several_tokens_can_be_observed_at_once() -> None:
    logits = mx.array([[5.0, 4.0, 3.0, 2.0]])
    sampler = Sampler(replace(OFF, temperature=0.0, presence_penalty=2.0), 4)
    sampler.observe(mx.array([0, 1, 0], mx.uint32))
    assert sampler.draw(logits).tolist() == [0]
    sampler = Sampler(replace(OFF, temperature=0.0, presence_penalty=1.5), 4)
    sampler.observe(mx.array([0, 1], mx.uint32))
    assert sampler.draw(logits).tolist() == [0]
