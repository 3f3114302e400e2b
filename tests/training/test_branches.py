"""What is written behind many places of texts is what each place gives alone."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import pytest

from tests import tiny
from training.branches import Place, branches
from training.decode import greedy

STOP = frozenset((3, 9))
MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


@pytest.mark.parametrize("kind", [{}, MOE], ids=["dense", "experts"])
def test_a_branch_is_what_its_whole_text_alone_gives(kind: dict[str, Any]) -> None:
    network, _ = tiny.network(3, **kind)
    draw = random.Random(3)
    texts = [[draw.randrange(24) for _ in range(size)] for size in (9, 30, 17, 5)]
    places = [Place(i, at, (11, 12)) for i, ids in enumerate(texts) for at in range(1, len(ids), 3)]
    draw.shuffle(places)
    whole = [[*texts[place.text][: place.at], *place.ids] for place in places]
    want = greedy(network, whole, 12, STOP)
    got = branches(network, texts, places, 12, STOP, texts_at_once=3, rows_at_once=4)
    assert [one.ids for one in got] == want
    assert 12 in map(len, want) and min(map(len, want)) < 12
    for ids, one in zip(whole, got, strict=True):
        logits = network(mx.array([[*ids, *one.ids]]))[0].astype(mx.float32)
        logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chances = [mx.exp(logs[len(ids) - 1 + i, token]).item() for i, token in enumerate(one.ids)]
        assert one.probabilities == pytest.approx(chances, abs=1e-5)
        first = logs[len(ids) - 1]
        assert one.entropy == pytest.approx(-(mx.exp(first) * first).sum().item(), abs=1e-4)
