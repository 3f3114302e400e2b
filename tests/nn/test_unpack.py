"""Many rows against packed weights: every way gives what the packed products give."""

from __future__ import annotations

import io

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn
import pytest

from qwen3_mlx.device import buffer_sizes, unpack_policy
from qwen3_mlx.errors import OptionError
from qwen3_mlx.nn import unpack
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.linear import Linear, QuantizedLinear
from qwen3_mlx.nn.mlp import MLP
from qwen3_mlx.nn.moe import Experts, MoE
from tests import tiny
from tests.oracle import assert_close

UNPACKING = [name for name in unpack_policy.UNPACK_MODES if name != "packed"]
PACKINGS = [(4, 64, "affine"), (8, 32, "affine"), (3, 64, "affine"), (4, 32, "mxfp4")]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWEN3_MLX_PREFILL", raising=False)


def choose(monkeypatch: pytest.MonkeyPatch, way: str, *modules: nn.Module) -> None:
    """Set the variable, and choose anew what runs `modules`."""
    monkeypatch.setenv("QWEN3_MLX_PREFILL", way)
    for module in modules:
        choose_backend(module)


def packed_experts(packing: tuple[int, int, str] | None, seed: int = 0) -> Experts:
    mx.random.seed(seed)
    stack = Experts(64, 128, 6)
    if packing:
        bits, group, mode = packing
        nn.quantize(stack, group, bits, mode=mode)
    return stack


def routed(rows: int, top_k: int = 2, experts: int = 6) -> mx.array:
    scores = mx.random.uniform(shape=(rows, experts))
    return mx.argsort(scores, axis=-1)[:, :top_k].astype(mx.uint32)


@pytest.mark.parametrize("packing", [*PACKINGS, None])
@pytest.mark.parametrize("way", UNPACKING)
def test_experts(
    way: str, packing: tuple[int, int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = packed_experts(packing)
    x, chosen = mx.random.normal((50, 64)), routed(50)
    choose(monkeypatch, "packed", stack)
    want = stack(x, chosen)
    choose(monkeypatch, way, stack)
    assert_close(stack(x, chosen), want)


@pytest.mark.parametrize("way", UNPACKING)
@pytest.mark.parametrize("case", ["one expert", "idle ones", "the last alone", "skewed"])
def test_uneven_loads(way: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = packed_experts((4, 64, "affine"))
    chosen = {
        "one expert": mx.zeros((80, 1), mx.uint32),
        "idle ones": mx.where(mx.arange(80) % 2 == 0, 1, 4)[:, None].astype(mx.uint32),
        "the last alone": mx.full((80, 1), 5, mx.uint32),
        "skewed": mx.maximum(mx.arange(80) - 75, 0)[:, None].astype(mx.uint32),
    }[case]
    x = mx.random.normal((len(chosen), 64))
    choose(monkeypatch, "packed", stack)
    want = stack(x, chosen)
    choose(monkeypatch, way, stack)
    assert_close(stack(x, chosen), want)


@pytest.mark.parametrize("way", UNPACKING)
@pytest.mark.parametrize("most", [1, 2, 4])
def test_group_by_group(way: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more experts are unpacked at once than `MAX_BYTES` holds."""
    stack = packed_experts((4, 64, "affine"))
    x, chosen = mx.random.normal((50, 64)), routed(50)
    choose(monkeypatch, "packed", stack)
    want = stack(x, chosen)
    choose(monkeypatch, way, stack)
    monkeypatch.setattr(unpack, "MAX_BYTES", most * 64 * 128 * 4)
    held: list[int] = []
    unpacked = type(stack.gate_proj).unpacked

    def noted(self: object, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        held.append(last - first)
        return unpacked(self, first, last, dtype)

    monkeypatch.setattr(type(stack.gate_proj), "unpacked", noted)
    assert_close(stack(x, chosen), want)
    assert max(held) == (1 if way == "each" else most)


def test_idle_experts_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, read = packed_experts((4, 64, "affine")), []
    unpacked = type(stack.gate_proj).unpacked

    def noted(self: object, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        read.append(first)
        return unpacked(self, first, last, dtype)

    monkeypatch.setattr(type(stack.gate_proj), "unpacked", noted)
    choose_backend(stack)
    stack(mx.zeros((80, 64)), mx.full((80, 1), 4, mx.uint32))
    assert set(read) == {0, 4}  # 0: asked for its size


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_matrix(
    packing: tuple[int, int, str], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mx.random.seed(3)
    bits, group, mode = packing
    layer = Linear(128, 48, bias=bias).to_quantized(group, bits, mode)
    assert isinstance(layer, QuantizedLinear)
    x = mx.random.normal((2, 20, 128))
    choose(monkeypatch, "packed", layer)
    want = layer(x)
    choose(monkeypatch, "grouped", layer)
    assert_close(layer(x), want)


def operations(layer: nn.Module, x: mx.array) -> str:
    """The names of what computes `layer(x)`, as MLX prints its graph."""
    text = io.StringIO()
    mx.export_to_dot(text, layer(x))
    return text.getvalue()


def test_it_begins_at_the_stated_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(64, 32, bias=False).to_quantized(64, 4)
    for device in buffer_sizes.UNPACK_ROWS:
        monkeypatch.setattr(backend, "device", lambda device=device: device)
        choose(monkeypatch, "grouped", layer)
        few, many = (
            mx.zeros((buffer_sizes.UNPACK_ROWS[device] - 1, 64)),
            mx.zeros((buffer_sizes.UNPACK_ROWS[device], 64)),
        )
        assert "QuantizedMatmul" in operations(layer, few)
        assert "QuantizedMatmul" not in operations(layer, many)
        assert "QuantizedMatmul" in operations(layer, many[:, None]), "a step of several sequences"
        choose(monkeypatch, "packed", layer)
        assert "QuantizedMatmul" in operations(layer, many)


def test_experts_begin_at_the_stated_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = packed_experts((4, 64, "affine"))
    pairs = mx.sort(routed(12).flatten())  # 24 of 6 experts: 4 each
    x = mx.zeros((24, 1, 64))
    policy = unpack_policy.choose_policy()
    assert policy is not None
    assert unpack.rows_per_expert(x, pairs, stack.gate_proj, policy) is not None
    assert unpack.rows_per_expert(x, pairs[:-1], stack.gate_proj, policy) is None
    choose(monkeypatch, "packed")
    assert unpack_policy.choose_policy() is None
    choose(monkeypatch, "grouped")
    policy = unpack_policy.choose_policy()
    assert policy is not None
    plain = packed_experts(None).gate_proj  # nothing to unpack
    assert unpack.rows_per_expert(x, pairs, plain, policy) is None


def test_compiled_and_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a trace nothing can be counted: the plain path; a gradient goes through."""
    mx.random.seed(5)
    block = MoE(64, 32, 6, 2, normalise=True)
    nn.quantize(block.switch_mlp, 32, 4)
    x = mx.random.normal((1, 40, 64))
    choose_backend(block)
    want = block(x)
    assert_close(mx.compile(block)(x), want, bound=1e-10)  # fused elementwise code rounds otherwise

    def loss(x: mx.array) -> mx.array:
        return block(x).square().sum()

    got = mx.grad(loss)(x)
    choose(monkeypatch, "packed", block)
    assert_close(got, mx.grad(loss)(x), bound=1e-10)  # sums in another order
    dense = MLP(64, 32)
    nn.quantize(dense, 32, 4)
    want = dense(x)
    choose(monkeypatch, "each", dense)
    assert_close(mx.compile(dense)(x), want, bound=1e-10)


def test_a_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3}
    network, _ = tiny.network(4, moe_intermediate_size=32, norm_topk_prob=True, **changes)
    nn.quantize(network, 32, 8)
    tokens = mx.array([[(5 * i + 3) % 24 for i in range(60)]])
    choose(monkeypatch, "packed", network)
    want = network(tokens)
    for way in UNPACKING:
        choose(monkeypatch, way, network)
        assert_close(network(tokens), want, bound=1e-10)  # many layers of float32 in other orders


def test_choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpack_policy.unpack_mode() == "each"
    choose(monkeypatch, "auto")
    assert unpack_policy.explain().startswith(
        "weights are unpacked, experts multiplied one after another"
    )
    choose(monkeypatch, "fast")
    with pytest.raises(OptionError, match=r"fast(.|\n)*hint: unset QWEN3_MLX_PREFILL"):
        unpack_policy.unpack_mode()
    monkeypatch.setattr(backend, "device", lambda: "metal")
    choose(monkeypatch, "auto")
    assert "not measured on metal" in unpack_policy.explain()
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    choose(monkeypatch, "auto")
    assert unpack_policy.explain().startswith(
        "weights are unpacked, experts multiplied in MLX's grouped product"
    )
    choose(monkeypatch, "packed")
    assert "as QWEN3_MLX_PREFILL says" in unpack_policy.explain()
    choose(monkeypatch, "grouped")
    assert "MLX_ENABLE_TF32=0 makes" in unpack_policy.explain()  # as in every test
