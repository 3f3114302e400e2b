"""Rows that are drawn together: each as its own sampler draws it alone, to the bit."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.engine.sample import Sampler, draw_together
from qwen3_mlx.options import Sampling

VOCABULARY = 300
GREEDY = Sampling(0.0, 1.0, 0)
KINDS = {
    "greedy": [GREEDY] * 4,
    "preset": [Sampling(0.7, 0.8, 20)] * 5,
    "whole vocabulary": [Sampling(1.0, 1.0, 0)] * 3,
    "top_p alone": [Sampling(0.6, 0.9, 0)] * 3,
    "min_p": [Sampling(0.9, 1.0, 7, min_p=0.1)] * 3,
    "penalties": [Sampling(0.7, 0.8, 20, 0.0, 1.5, 1.3, 0.2)] * 4,
    "mixed": [
        GREEDY,
        Sampling(0.7, 0.8, 20),
        GREEDY,
        Sampling(1.0, 1.0, 0),
        Sampling(0.7, 0.8, 20),
    ],
    "one": [Sampling(0.7, 0.8, 20)],
}


def samplers(kinds: list[Sampling]) -> list[Sampler]:
    return [
        Sampler(kind, VOCABULARY, [1, 2, n], seed=n, bias={n: 2.0}, min_tokens=3, eos=(5, 9))
        for n, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_each_row_is_drawn_as_alone(kinds: list[Sampling]) -> None:
    together, alone = samplers(kinds), samplers(kinds)
    for step in range(12):
        logits = 4 * mx.random.normal((len(kinds), 1, VOCABULARY), key=mx.random.key(step))
        rows = [row.astype(mx.bfloat16) for row in logits]  # with ties
        found = draw_together(together, rows)
        wanted = [sampler.draw(row) for sampler, row in zip(alone, rows, strict=True)]
        assert [token.tolist() for token in found] == [token.tolist() for token in wanted]
        for sampler, token in zip([*together, *alone], [*found, *wanted], strict=True):
            assert token.shape == (1,)
            sampler.observe(token)


def test_a_row_alone_is_drawn_as_mlx_draws() -> None:
    """`mx.random.categorical` of the filtered scores, with the sampler's first key."""
    logits, sampling = (
        mx.random.normal((1, VOCABULARY), key=mx.random.key(3)),
        Sampling(1.0, 1.0, 0),
    )
    key = Sampler(sampling, VOCABULARY, seed=8).next_key()
    wanted = mx.random.categorical(logits, key=key)
    assert Sampler(sampling, VOCABULARY, seed=8).draw(logits).item() == wanted.item()


def test_nobody_draws_nothing() -> None:
    assert draw_together([], []) == []
