"""Rows of several sequences in one forward pass compute the bits that each computes alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn
import pytest

from qwen3_mlx.nn import moe
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.lora import LoRALinear
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat
from tests import tiny
from tests.oracle import assert_close

pytestmark = pytest.mark.skipif(backend.device() != "cpu", reason="the same bits: on the CPU only")

LENGTHS = [1, 40, 7, 130, 3, 64, 2, 90, 5, 11, 300, 1, 8, 77, 20, 33]
FORMATS = [CacheFormat(), CacheFormat(8), CacheFormat(4), CacheFormat(window=64)]
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 96}
MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256
}  # fmt: skip


def packed(network: Qwen3Network) -> Qwen3Network:
    nn.quantize(network, group_size=32, bits=4)
    choose_backend(network)
    return network


def lora(network: Qwen3Network) -> Qwen3Network:
    for block in network.layers:
        q = block.self_attn.q_proj
        out, inner = q.weight.shape
        a, b = mx.random.normal((4, inner)), mx.random.normal((out, 4))
        block.self_attn.q_proj = LoRALinear(q, a, b)
    return network


NETWORKS: dict[str, Any] = {
    "dense": lambda: tiny.network(1, head_dim=32)[0],
    "wide": lambda: tiny.network(2, head_dim=32, **WIDE)[0],
    "tied": lambda: tiny.network(3, head_dim=32, **WIDE, tie_word_embeddings=True)[0],
    "experts": lambda: tiny.network(4, head_dim=32, **WIDE, **MOE)[0],
    "packed": lambda: packed(tiny.network(5, head_dim=32, **WIDE)[0]),
    "packed experts": lambda: packed(tiny.network(6, head_dim=32, **WIDE, **MOE)[0]),
    "lora": lambda: lora(tiny.network(7, head_dim=32, **WIDE)[0]),
    "yarn": lambda: tiny.network(8, head_dim=32, rope_scaling=YARN)[0],
}


def filled(network: Qwen3Network, cache_format: CacheFormat, rows: int) -> list[list[KVCache]]:
    caches = [network.make_cache(cache_format) for _ in range(rows)]
    for row, cache in enumerate(caches):
        for start in range(0, LENGTHS[row], 50):  # a window is kept in pieces
            ids = [(row + 5 * i) % 24 for i in range(start, min(start + 50, LENGTHS[row]))]
            network(mx.array([ids], mx.uint32), cache)
    return caches


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Iterator[Qwen3Network]:
    yield NETWORKS[request.param]()


@pytest.mark.parametrize("cache_format", FORMATS, ids=lambda f: f"{f.bits}-{f.window}")
def test_together_as_alone(network: Qwen3Network, cache_format: CacheFormat) -> None:
    for rows in (3, 16):
        alone, together = (filled(network, cache_format, rows) for _ in range(2))
        tokens = mx.array([[row % 24] for row in range(rows)], mx.uint32)
        for _ in range(2):
            expected = mx.concatenate(
                [network(t, c) for t, c in zip(mx.split(tokens, rows), alone, strict=True)]
            )
            logits = network.together(tokens, together)
            assert logits.shape == expected.shape
            assert mx.array_equal(logits, expected).item()
            tokens = mx.argmax(logits, axis=-1).astype(mx.uint32)
        for one, other in zip(alone, together, strict=True):
            assert [a.offset for a in one] == [b.offset for b in other]


def test_a_prompt_is_still_multiplied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the rows of a step are apart: a chunk of a prompt reads the weights once."""
    network = NETWORKS["wide"]()
    calls: list[tuple[int, ...]] = []
    product = nn.Linear.__call__
    monkeypatch.setattr(
        nn.Linear, "__call__", lambda self, x: (calls.append(x.shape), product(self, x))[1]
    )
    network(mx.zeros((1, 9), mx.uint32), network.make_cache())
    assert {shape[:2] for shape in calls} == {(1, 9)}
    calls.clear()
    network.together(mx.zeros((2, 1), mx.uint32), [network.make_cache() for _ in range(2)])
    assert {shape[:2] for shape in calls} == {(1, 1)}
    monkeypatch.setattr(backend, "device", lambda: "metal")
    calls.clear()
    network.together(mx.zeros((2, 1), mx.uint32), [network.make_cache() for _ in range(2)])
    assert {shape[:2] for shape in calls} == {(2, 1)}


def test_many_pairs_are_sorted_where_rows_need_not_be_apart() -> None:
    network = NETWORKS["experts"]()
    block = network.layers[0].mlp
    x = mx.random.normal((16, 1, 256))
    assert 16 * block.top_k >= moe.SORT_FROM
    alone = mx.concatenate([block(row) for row in mx.split(x, 16)])
    assert mx.array_equal(block(x), alone).item()
    prompt = block(x.reshape(1, 16, 256)).reshape(x.shape)
    assert_close(prompt, alone)
