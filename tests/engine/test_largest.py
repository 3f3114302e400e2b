"""The largest of many scores, found by blocks: the same scores as by sorting all of them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.engine import logit_filters
from qwen3_mlx.engine.logit_filters import BLOCK, distribution, largest
from qwen3_mlx.engine.sample import logprobs
from qwen3_mlx.options import Sampling

VOCABULARY = 151_936


def scores(kind: str, rows: int, size: int) -> np.ndarray:
    draw = np.random.default_rng(size + rows)
    found = draw.normal(size=(rows, size)).astype(np.float32)
    match kind:
        case "with ties":  # as of logits in bfloat16
            return np.round(found * 32) / 32
        case "in one block":
            found[:, -BLOCK:] += 50
        case "mostly forbidden":
            found[draw.random(found.shape) < 0.9995] = -np.inf
        case "descending":
            return -np.sort(-found, axis=-1)
    return found


@pytest.mark.parametrize(
    "kind", ["any", "with ties", "in one block", "mostly forbidden", "descending"]
)
@pytest.mark.parametrize(
    ("rows", "size", "count"),
    [
        (1, VOCABULARY, 84),
        (8, VOCABULARY, 84),
        (2, VOCABULARY, 1),
        (2, VOCABULARY - 1, 84),  # no whole number of blocks
        (3, 4 * BLOCK * 20, 20),  # the smallest that is cut into blocks
        (3, 4 * BLOCK * 20 - BLOCK, 20),
        (2, 7, 7),
    ],
)
def test_they_are_those_of_a_sort(kind: str, rows: int, size: int, count: int) -> None:
    given = scores(kind, rows, size)
    ids = np.array(largest(mx.array(given), count))
    assert ids.shape == (rows, count) and ids.dtype == np.uint32
    for row, of in zip(ids, given, strict=True):
        assert len({*row.tolist()}) == count
        assert np.sort(of[row]).tolist() == np.sort(of)[-count:].tolist()


@pytest.mark.parametrize("temperature", [0.05, 0.6, 1.0, 5.0])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), [(20, 0.8, 0.0), (1, 1.0, 0.0), (50, 1.0, 0.05)]
)
def test_a_large_vocabulary_has_the_distribution_of_a_sort(
    monkeypatch: pytest.MonkeyPatch, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = Sampling(temperature, top_p, top_k, min_p)
    logits = mx.array(3 * scores("with ties", 2, VOCABULARY))
    found = np.array(distribution(logits, sampling))
    monkeypatch.setattr(logit_filters, "BLOCK", VOCABULARY)
    want = np.array(distribution(logits, sampling))
    # of equal scores at the end of top_p either may stay: so by size, and by score
    assert np.abs(np.sort(found) - np.sort(want)).max() <= 1e-6
    assert (
        np.abs((found * np.array(logits)).sum(-1) - (want * np.array(logits)).sum(-1)).max() <= 1e-4
    )
    assert abs(found.sum(axis=-1) - 1).max() <= 1e-5


def test_the_likeliest_of_a_large_vocabulary_come_in_order() -> None:
    logits = scores("any", 1, VOCABULARY)
    found = logprobs(mx.array(logits), mx.array([5], mx.uint32), 20)
    assert np.array(found.top_ids).tolist() == np.argsort(-logits[0])[:20].tolist()
    assert len(logprobs(mx.array(logits), mx.array([5], mx.uint32), 0).top_ids) == 0
