"""frequency_penalty, logit_bias, min_tokens, forbidden tokens: against their definitions.

The reference is vLLM's text in float64: v1/sample/sampler.py for the order (least length, bias,
then the penalties), model_executor/layers/utils.py apply_penalties for the arithmetic
(repetition on prompt and output; ``logits -= frequency * counts``; ``logits -= presence * mask``).
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.engine.logit_filters import distribution
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.options import Sampling

OFF = Sampling(temperature=1.0, top_p=1.0, top_k=0)
VOCAB, EOS = 40, (7, 9)


def reference(
    logits: np.ndarray,
    sampling: Sampling,
    prompt: list[int],
    output: list[int],
    bias: dict[int, float],
    least: int,
) -> np.ndarray:
    logits = logits.astype(np.float64).copy()
    if len(output) < least:
        logits[list(EOS)] = -np.inf
    for token, value in bias.items():
        logits[token] += value
    counts = np.bincount(output, minlength=VOCAB)
    seen = (counts + np.bincount(prompt, minlength=VOCAB)) > 0
    r = sampling.repetition_penalty
    logits = np.where(seen, np.where(logits > 0, logits / r, logits * r), logits)
    logits -= sampling.frequency_penalty * counts
    logits -= sampling.presence_penalty * (counts > 0)
    scaled = np.exp((logits - logits.max()) / sampling.temperature)
    total: np.ndarray = scaled / scaled.sum()
    return total


@pytest.mark.parametrize("seed", range(60))
def test_the_distribution_equals_vllms_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sampling = replace(
        OFF,
        temperature=float(rng.uniform(0.3, 1.5)),
        frequency_penalty=float(rng.uniform(-2, 2)),
        presence_penalty=float(rng.choice([0, rng.uniform(-2, 2)])),
        repetition_penalty=float(rng.choice([1, rng.uniform(0.7, 1.5)])),
    )
    bias = {int(t): float(rng.uniform(-20, 20)) for t in rng.choice(VOCAB, 5, replace=False)}
    prompt = rng.integers(0, VOCAB, 6).tolist()
    output = rng.integers(0, VOCAB, rng.integers(0, 30)).tolist()
    least = int(rng.integers(0, 30))
    sampler = Sampler(sampling, VOCAB, prompt, bias=bias, min_tokens=least, eos=EOS)
    for token in output[:5]:
        sampler.observe(mx.array([token], mx.uint32))
    if output[5:]:  # injected at once, some of them twice
        sampler.observe(mx.array(output[5:], mx.uint32))
    logits = rng.normal(0, 4, VOCAB).astype(np.float32)
    adjusted = sampler.adjusted(mx.array(logits)[None])
    got = np.array(distribution(adjusted, replace(OFF, temperature=sampling.temperature)))[0]
    want = reference(logits, sampling, prompt, output, bias, least)
    assert np.abs(got.astype(np.float64) - want).sum() / 2 <= 1e-6
    if len(output) < least:
        assert (got[list(EOS)] == 0).all()


def test_what_is_forbidden_is_never_drawn() -> None:
    logits = mx.array([[9.0, 5.0, 1.0]])
    for temperature in (0.0, 1.0):
        sampler = Sampler(replace(OFF, temperature=temperature), 3, seed=1, bias={1: 1.0})
        sampler.forbid(0)
        sampler.forbid(77)  # of no vocabulary
        assert {sampler.draw(logits).item() for _ in range(50)} <= {1, 2}


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-38, 1e-31])
def test_a_vanishing_temperature_is_greedy(temperature: float) -> None:
    logits = mx.array([[30.0, 31.0, 45.0, 44.9]])
    sampling = replace(OFF, temperature=temperature)
    assert {Sampler(sampling, 4, seed=n).draw(logits).item() for n in range(20)} == {2}
    assert distribution(logits, sampling).tolist() == [[0, 0, 1, 0]]


def test_what_is_off_costs_nothing() -> None:
    sampler = Sampler(OFF, 3)
    logits = mx.array([[1.0, 2.0, 3.0]])
    assert sampler._bias is None and sampler._counts is None
    assert sampler.adjusted(logits).tolist() == logits.tolist()
