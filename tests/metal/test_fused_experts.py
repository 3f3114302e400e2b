"""A few tokens through a Mixture of Experts: fused where it can be, equal to the plain path."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.fused_experts import few_unavailable
from qwen3_mlx.nn.moe import MoE
from tests import tiny
from tests.oracle import assert_close


def moe(bits: int = 0, experts: int = 8, top_k: int = 3, seed: int = 1) -> MoE:
    """A random one, made for inference; `bits` packs it as mlx-lm's recipes do."""
    mx.random.seed(seed)
    block = MoE(64, 32, experts, top_k, normalise=True)
    block.gate.weight = mx.random.normal(block.gate.weight.shape)
    if bits:
        nn.quantize(block, 32, bits)
    block.eval()
    choose_backend(block)
    return block


@pytest.mark.parametrize("tokens", range(1, 9))
def test_up_to_eight_tokens_are_fused(
    tokens: int, monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    block, x = moe(bits=4), mx.random.normal((1, tokens, 64))
    got = block(x)
    assert [launch.kernel for launch in launches] == ["route", "gate_up", "down"]
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "off")
    choose_backend(block)
    assert_close(got, block(x))


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_sequences_of_a_batch(
    bits: int, monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    block, x = moe(bits), mx.random.normal((3, 2, 64))
    got = block(x)
    assert len(launches) == 3
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "off")
    choose_backend(block)
    assert_close(got, block(x))


def test_what_cannot_be_fused_takes_the_plain_path(launches: list[Launch]) -> None:
    block, many = moe(bits=4), moe(experts=48, top_k=40)
    assert few_unavailable(block.routed()) is None
    assert "top 40" in (few_unavailable(many.routed()) or "")
    assert "3 bits" in (few_unavailable(moe(bits=3).routed()) or "")
    many(mx.zeros((2, 64)))
    block(mx.zeros((9, 64)))  # at most 8 tokens
    block(mx.zeros((2, 64), mx.float16))  # the weights are float32
    block.train()  # the kernels have no gradient
    block(mx.zeros((2, 64)))
    assert launches == []


def test_a_network_nobody_chose_for_is_plain(launches: list[Launch]) -> None:
    block = MoE(64, 32, 8, 3, normalise=True)
    block.eval()
    block(mx.zeros((2, 64)))
    assert launches == []


def test_the_tail_of_a_prompt_is_fused(launches: list[Launch]) -> None:
    """Through the whole network, a chunk of nine tokens and one of four."""
    changes = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3}
    network, _ = tiny.network(4, moe_intermediate_size=32, norm_topk_prob=True, **changes)
    network.eval()
    cache = network.make_cache()
    tokens = mx.array([[(5 * i + 3) % 24 for i in range(13)]])
    first = network(tokens[:, :9], cache)
    assert launches == []
    second = network(tokens[:, 9:], cache)
    assert len(launches) == 3 * len(network.layers)
    network.train()
    # 1e-10: as elsewhere between two paths of a whole network in float32
    assert_close(mx.concatenate([first, second], axis=1), network(tokens), bound=1e-10)
