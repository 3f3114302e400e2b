"""A prompt through a Mixture of Experts: matrix units where they can be, equal to plain ones."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.fused_experts import many_unavailable
from qwen3_mlx.nn.moe import MoE, route
from tests import tiny
from tests.oracle import assert_close


def moe(bits: int = 4, dtype: mx.Dtype = mx.bfloat16, top_k: int = 3) -> MoE:
    """A random one, made for inference and packed."""
    mx.random.seed(1)
    block = MoE(128, 128, 8, top_k, normalise=True)
    block.gate.weight = mx.random.normal(block.gate.weight.shape)
    block.set_dtype(dtype)
    nn.quantize(block.switch_mlp, 64, bits)
    block.eval()
    choose_backend(block)
    return block


def in_float32(block: MoE, x: mx.array) -> mx.array:
    """The plain path by the same choice of experts: in 16 bits MLX's CPU is the inexact side."""
    experts, weights = route(block.gate(x), block.top_k, block.normalise)
    stack = block.switch_mlp
    stack.apply(lambda array: array if array.dtype == mx.uint32 else array.astype(mx.float32))
    out = stack(x.astype(mx.float32), experts)
    return (out * weights[..., None]).sum(axis=-2)


@pytest.mark.parametrize("tokens", [9, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_more_than_eight_tokens(bits: int, tokens: int, launches: list[Launch]) -> None:
    block, x = moe(bits), mx.random.normal((1, tokens, 128)).astype(mx.bfloat16)
    got = block(x)
    assert [launch.kernel for launch in launches] == ["route", "gather_matmul", "gather_matmul"]
    # 2.8e-6 each: weights, hidden layers, every expert's output and their sum are rounded
    assert_close(got[0], in_float32(block, x[0]), bound=2e-5)


def test_a_batch_keeps_its_shape(launches: list[Launch]) -> None:
    block, x = moe(dtype=mx.float16), mx.random.normal((3, 5, 128)).astype(mx.float16)
    got = block(x)
    assert len(launches) == 3
    want = in_float32(block, x.flatten(0, 1)).reshape(got.shape)
    assert_close(got, want, bound=4e-7)  # as above, of float16


def test_what_takes_the_plain_path(monkeypatch: pytest.MonkeyPatch, launches: list[Launch]) -> None:
    block, x = moe(), mx.zeros((9, 128), mx.bfloat16)
    assert "expected 16 bits" in (many_unavailable(moe(dtype=mx.float32).routed()) or "")
    assert "not packed" in (many_unavailable(_plain().routed()) or "")
    monkeypatch.setenv("QWEN3_MLX_PREFILL", "packed")
    assert many_unavailable(block.routed()) == "switched off by QWEN3_MLX_PREFILL"
    monkeypatch.setenv("QWEN3_MLX_PREFILL", "auto")
    assert many_unavailable(block.routed()) is None
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "route")
    assert many_unavailable(block.routed()) == "switched off by QWEN3_MLX_KERNELS"
    choose_backend(block)
    block(x)
    monkeypatch.delenv("QWEN3_MLX_KERNELS")
    choose_backend(block)
    block.train()  # the kernels have no gradient
    block(x)
    assert launches == []
    block.eval()
    block(x)
    assert len(launches) == 3


def _plain() -> MoE:
    block = MoE(64, 32, 8, 3, normalise=True)
    block.set_dtype(mx.float16)
    block.eval()
    return block


def test_a_prompt_through_a_network(
    monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    changes = {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 4,
    }  # all: no choice hangs on a rounding
    changes |= {"hidden_size": 128, "norm_topk_prob": True}
    network, _ = tiny.network(4, moe_intermediate_size=128, **changes)
    nn.quantize(network, 64, 8)
    network.eval()
    network.set_dtype(mx.float16)
    choose_backend(network)
    tokens = mx.array([[(5 * i + 3) % 24 for i in range(20)]])
    got = network(tokens)
    assert [one.kernel for one in launches].count("gather_matmul") == 2 * len(network.layers)
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "off")
    choose_backend(network)
    # a network in float16: either is 1.5e-4 from the same in float32
    assert_close(got, network(tokens), bound=2e-5)
