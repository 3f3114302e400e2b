"""Rows that are drawn together: each as its own sampler draws it alone, to the bit."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.engine.logit_filters import gumbel
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


def unlike() -> list[Sampler]:
    """Of equal sampling options: with and without a bias, before and after their least length."""
    sampling = Sampling(1.0, 1.0, 0)
    plain, biased = Sampler(sampling, VOCABULARY, seed=1), Sampler(sampling, VOCABULARY, seed=2)
    biased.forbid(8)
    least = [
        Sampler(sampling, VOCABULARY, seed=3 + n, min_tokens=3 * n, eos=range(0, VOCABULARY, 2))
        for n in (1, 2)
    ]
    return [plain, biased, *least]


def test_samplers_of_equal_options_that_differ_otherwise() -> None:
    """Drawn with the first one's, the biased one would say what it must not."""
    together, alone = unlike(), unlike()
    for step in range(8):
        logits = mx.random.normal((4, VOCABULARY), key=mx.random.key(step))
        logits[:, 8] += 20  # what all would say, but for the forbidden one
        logits[:, 7] += 19
        rows = [row[None] for row in logits]
        found = draw_together(together, rows, logits)
        wanted = [sampler.draw(row) for sampler, row in zip(alone, rows, strict=True)]
        assert [token.item() for token in found] == [token.item() for token in wanted]
        assert found[1].item() != 8
        assert found[2].item() % 2 == 1 or step >= 3
        assert found[3].item() % 2 == 1 or step >= 6
        for sampler, token in zip([*together, *alone], [*found, *wanted], strict=True):
            sampler.observe(token)


def test_a_row_alone_is_drawn_by_gumbel_noise() -> None:
    """The largest of log-weight plus noise, which the sampler's first key gives."""
    logits, sampling = (
        mx.random.normal((1, VOCABULARY), key=mx.random.key(3)),
        Sampling(1.0, 1.0, 0),
    )
    noise = mx.random.gumbel((VOCABULARY,), key=Sampler(sampling, 300, seed=8).next_key()[0])
    wanted = mx.argmax(logits[0] + noise)
    assert Sampler(sampling, VOCABULARY, seed=8).draw(logits).item() == wanted.item()


@pytest.mark.parametrize("size", [1, 2, 3, 84, 300, 151_936])
def test_noise_of_several_rows_is_that_of_each_key(size: int) -> None:
    keys = [mx.random.key(n)[None] for n in range(5)]
    found = gumbel(keys, size)
    assert found.shape == (5, size)
    for row, key in zip(found, keys, strict=True):
        assert row.tolist() == gumbel([key], size)[0].tolist()


def test_rows_of_one_array_are_drawn_as_rows_of_many() -> None:
    logits = 4 * mx.random.normal((5, VOCABULARY), key=mx.random.key(1))
    kinds = [Sampling(0.7, 0.8, 20)] * 5
    apart = draw_together(samplers(kinds), [row[None] for row in logits])
    together = draw_together(samplers(kinds), [row[None] for row in logits], logits)
    assert [token.item() for token in together] == [token.item() for token in apart]


def test_eight_rows_take_the_operations_of_one(tmp_path: Path) -> None:
    """What the host builds and launches a step: each operation costs it microseconds."""
    counts = []
    for rows in (1, 8):
        own = samplers([Sampling(0.7, 0.8, 20)] * rows)
        logits = mx.zeros((rows, VOCABULARY))
        mx.eval(draw_together(own, mx.split(logits, rows), logits))  # keys and biases
        found = draw_together(own, mx.split(logits, rows), logits)
        mx.export_to_dot(str(tmp_path / "graph.dot"), *found)
        counts.append((tmp_path / "graph.dot").read_text().count("shape=rectangle"))
    assert counts[1] < 2 * counts[0]


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("least", [0, 3, 9])
def test_successive_rows_are_drawn_as_one_after_another(kinds: list[Sampling], least: int) -> None:
    """Around the least length too, where the end becomes drawable, and after some were dropped."""
    for kind in kinds:
        rows, turn = (
            Sampler(kind, VOCABULARY, [1, 2], seed=7, bias={3: 2.0}, min_tokens=least, eos=(5, 9))
            for _ in range(2)
        )
        for step in range(4):
            key = mx.random.key(step)
            logits = (4 * mx.random.normal((4, VOCABULARY), key=key)).astype(mx.bfloat16)
            fed = mx.array([step, 8, 8, step], mx.uint32)
            found, states = rows.draw_rows(fed, logits)
            wanted, passed = [], []
            for index in range(4):
                turn.observe(fed[index : index + 1])
                wanted.append(turn.draw(logits[index : index + 1]).item())
                passed.append(turn.state())
            assert found.tolist() == wanted
            for one, other in zip(states, passed, strict=True):
                assert one[:2] == other[:2]
                for mask, same in zip(one[2:], other[2:], strict=True):
                    assert mask is same is None or mx.array_equal(mask, same).item()
            rows.restore(states[step])
            turn.restore(passed[step])


def test_successive_rows_take_the_operations_of_one(tmp_path: Path) -> None:
    counts = []
    for rows in (1, 8):
        (own,) = samplers([Sampling(0.7, 0.8, 20)])
        fed, logits = mx.zeros((rows,), mx.uint32), mx.zeros((rows, VOCABULARY))
        mx.eval(own.draw_rows(fed, logits)[0])  # keys and biases
        mx.export_to_dot(str(tmp_path / "graph.dot"), own.draw_rows(fed, logits)[0])
        counts.append((tmp_path / "graph.dot").read_text().count("shape=rectangle"))
    assert counts[1] < 2 * counts[0]


def test_nobody_draws_nothing() -> None:
    assert draw_together([], []) == []
