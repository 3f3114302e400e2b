"""Rows in fused steps: several sequences, new tokens of one, tails that close one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map, tree_map_with_path

from qwen3_mlx.engine.side_by_side import step_together, way_together
from qwen3_mlx.metal import attend, layer
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.fused_rows import FusedRows, choose_operations
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat
from tests import tiny
from tests.oracle import assert_close
from tests.threads import at_once

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 32,
    "num_hidden_layers": 2,
    "vocab_size": 64,
}
MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 128,
    "norm_topk_prob": True,
}
BF16 = 3e-4
"""Of two layers in bfloat16, which rounds some twenty times. All experts are chosen: otherwise one
rounding of a logit could choose another one."""


def network_of(dtype: mx.Dtype, packed: bool = True, **changes: Any) -> Qwen3Network:
    network, _ = tiny.network(1, **SIZES, **changes)

    def tame(path: str, weight: mx.array) -> mx.array:
        """Of std 1/√K, so that two layers don't blow a rounding up."""
        return (weight if "norm" in path or "embed" in path else weight * 0.25).astype(dtype)

    network.update(tree_map_with_path(tame, network.parameters()))
    if packed:
        nn.quantize(network, group_size=64, bits=4)
    choose_backend(network)
    mx.eval(network.parameters())
    return network


def exact(network: Qwen3Network) -> Qwen3Network:
    """The same weights in float32: on the CPU MLX's own products in bfloat16 are no reference."""
    copy, _ = tiny.network(1, **SIZES, **(MOE if "switch_mlp" in str(network) else {}))
    if "Quantized" in str(network):
        nn.quantize(copy, group_size=64, bits=4)
    wide = tree_map(
        lambda a: a if a.dtype == mx.uint32 else a.astype(mx.float32), network.parameters()
    )
    copy.update(wide)
    choose_backend(copy)
    return copy


def filled(
    network: Qwen3Network,
    lengths: list[int],
    cache_format: CacheFormat = AS_COMPUTED,
    truth: Qwen3Network | None = None,
) -> tuple[list[list[KVCache]], list[list[KVCache]]]:
    """Caches with tails, and plain ones of `truth`, of sequences of these lengths."""
    other, dtype = truth or network, network.model.norm.weight.dtype
    plain = [other.make_cache(cache_format) for _ in lengths]
    for index, (length, cache) in enumerate(zip(lengths, plain, strict=True)):
        other(mx.array([[(index + 3 * i) % 24 for i in range(length)]], mx.uint32), cache)
    ours = [FusedStep(network, cache_format).make_cache() for _ in lengths]
    for length, caches, same in zip(lengths, ours, plain, strict=True):
        for layer_cache, from_it in zip(caches, same, strict=True):
            kept = from_it.stored(length).items()
            whole = {k: a if a.dtype == mx.uint32 else a.astype(dtype) for k, a in kept}
            layer_cache.restore(whole, length)
    return ours, plain


def check(
    network: Qwen3Network,
    operations: layer.Operations,
    new: list[int],
    bound: float | None,
    cache_format: CacheFormat = AS_COMPUTED,
    steps: int = 4,
) -> None:
    rows = FusedRows(network, cache_format, operations)
    truth = exact(network) if network.model.norm.weight.dtype == mx.bfloat16 else network
    lengths = [5 + 9 * index for index in range(len(new))]
    ours, plain = filled(network, lengths, cache_format, truth)
    for step in range(steps):
        tokens = mx.array([[(7 * step + row) % 24] for row in range(sum(new))], mx.uint32)
        got = rows.rows(tokens, ours, new)
        want = FusedRows(truth, cache_format)._plainly(tokens, plain, new)
        assert not rows.fault
        assert got.shape == want.shape == (sum(new), 1, 64)
        assert_close(got, want, bound=bound)
    assert [c[0].offset for c in ours] == [c[0].offset for c in plain]
    for one, other in zip(ours, plain, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.trim(1) == b.trim(1) == 1
            kept, same = (cache.stored(cache.offset).values() for cache in (a, b))
            if not cache_format.bits:
                assert_close(mx.stack(list(kept)), mx.stack(list(same)), bound=bound)


@pytest.fixture(autouse=True)
def short_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "TAIL", 6)


@pytest.mark.parametrize("new", [[1, 1], [1, 1, 1], [3]])
def test_hybrid_rows(new: list[int]) -> None:
    check(network_of(mx.float32), layer.HYBRID, new, 1e-10)


@pytest.mark.parametrize("new", [[1, 1, 1], [4]])
@pytest.mark.parametrize("changes", [{}, MOE], ids=["dense", "experts"])
def test_rows_on_matrix_units(
    new: list[int], changes: dict[str, Any], launches: list[Launch]
) -> None:
    check(network_of(mx.bfloat16, **changes), layer.ROWS, new, BF16, steps=2)
    kernels = {launch.kernel for launch in launches}
    assert {"skinny", "attend", "rotation"} <= kernels
    assert not kernels & {"matvec", "gate_up", "down"}


def test_plain_weights_and_more_rows_than_a_tile() -> None:
    check(network_of(mx.bfloat16, packed=False), layer.ROWS, [1] * 9, BF16, steps=2)


@pytest.mark.parametrize("new", [[1, 3, 1], [2, 3], [4, 1], [1, 1, 2, 1, 5]])
def test_rows_of_both_kinds_share_a_pass(new: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The drafts of one, or of several, beside the last tokens of others."""
    passes: list[list[int]] = []
    run = FusedRows._run

    def noted(rows: FusedRows, tokens: Any, held: Any, new: Any) -> Any:
        passes.append(list(new))
        return run(rows, tokens, held, new)

    monkeypatch.setattr(FusedRows, "_run", noted)
    check(network_of(mx.float32), layer.HYBRID, new, 1e-10, steps=3)
    assert passes == [new] * 3


@pytest.mark.parametrize("changes", [{}, MOE], ids=["dense", "experts"])
def test_so_do_they_on_matrix_units(changes: dict[str, Any]) -> None:
    check(network_of(mx.bfloat16, **changes), layer.ROWS, [1, 4, 1, 3], BF16, steps=1)


def test_steps_of_as_many_rows_share_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever of the sequences it is that has drafts."""
    network = network_of(mx.float32)
    rows = FusedRows(network, operations=layer.HYBRID)
    caches, _ = filled(network, [5, 9, 3])
    tokens = mx.arange(4, dtype=mx.uint32)[:, None]
    for new in ([2, 1, 1], [1, 2, 1], [1, 1, 2]):
        rows.rows(tokens, caches, new)
    assert len(rows._met) == 1 and not rows.fault


def test_packed_pasts() -> None:
    check(network_of(mx.float32), layer.HYBRID, [1, 1], 1e-3, CacheFormat(8))


def test_tails_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody comes or leaves, no tail is copied but by the kernel."""
    network, stacked = network_of(mx.float32), []
    stack = mx.stack
    rows = FusedRows(network, operations=layer.HYBRID)
    caches, _ = filled(network, [5, 9, 3])
    tokens = mx.array([[1], [2], [3]], mx.uint32)
    rows.together(tokens, caches)
    monkeypatch.setattr(mx, "stack", lambda *a, **k: (stacked.append(a), stack(*a, **k))[1])
    for _ in range(9):
        rows.together(tokens, caches)
    assert not stacked
    rows.together(tokens[:2], caches[1:])
    assert len(stacked) == 2


def test_what_a_kernel_throws_goes_through_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(mx.float32)
    rows = FusedRows(network, operations=layer.HYBRID)
    ours, plain = filled(network, [5, 9])
    tokens = mx.array([[1], [2]], mx.uint32)

    def broken(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(rows, "_forward", broken)
    assert mx.array_equal(rows.together(tokens, ours), network.together(tokens, plain)).item()
    assert "no such kernel" in rows.fault
    assert [c[0].offset for c in ours] == [6, 10]


def test_who_takes_what(monkeypatch: pytest.MonkeyPatch) -> None:
    operations, reason = choose_operations(network_of(mx.bfloat16))
    assert operations is layer.ROWS and reason is None
    operations, reason = choose_operations(network_of(mx.float32))
    assert operations is layer.HYBRID and reason is None
    operations, reason = choose_operations(network_of(mx.float32, **MOE))
    assert operations is None and "float32" in (reason or "")
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "off")
    assert FusedRows.if_available(network_of(mx.bfloat16)) is None
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "matvec,attend,gate_up")
    assert FusedRows.if_available(network_of(mx.bfloat16)) is None


def test_without_fused_rows_each_takes_its_own_fused_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is faster than all of them in MLX's operations."""
    network = network_of(mx.float32)
    monkeypatch.setattr(FusedRows, "if_available", lambda *_: None)
    assert way_together(network, AS_COMPUTED) == (None, None)
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "off")
    assert way_together(network, AS_COMPUTED) == (network.rows, None)
    stepped = [SimpleNamespace(step=lambda n=n: n) for n in (7, 8)]
    assert step_together(stepped, None) == [7, 8]  # type: ignore[arg-type]


def test_the_host_makes_no_counts_that_the_last_step_foresaw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are the last step's own, until a sequence is cut, joins, leaves or moves its tail."""
    monkeypatch.setattr(attend, "TAIL", 32)
    network = network_of(mx.float32)
    rows = FusedRows(network, operations=layer.HYBRID)
    (first, second, third), _ = filled(network, [5, 14, 60])
    given: list[tuple[mx.array, mx.array]] = []
    forward = rows._forward

    def noted(*args: Any) -> Any:
        result = forward(*args)
        given.append((args[2], result[2][0]))
        return result

    monkeypatch.setattr(rows, "_forward", noted)

    def step(caches: list[list[KVCache]], new: list[int]) -> bool:
        """Whether it took the last one's counts; they are right in any case."""
        before = [[cache[0].offset] for cache in caches]
        rows.rows(mx.array([[1]] * sum(new), mx.uint32), caches, new)
        assert given[-1][0].sum(1, keepdims=True).tolist() == before
        return len(given) > 1 and given[-1][0] is given[-2][1]

    both = [first, second]
    assert [step(both, [1, 1]) for _ in range(3)] == [False, True, True]
    assert step(both, [3, 2]) and step(both, [1, 1])
    for cache in second:
        cache.trim(1)
    assert not step(both, [1, 1]) and step(both, [1, 1])
    assert not step([second, first], [1, 1])
    assert not step([first, second, third], [1, 1, 1]) and not step(both, [1, 1])
    for cache in first:
        cache.append(*[mx.zeros((1, 1, 1, 32))] * 2)
    assert not step(both, [1, 1])
    closing = [True, True, False, False, True]  # first the one's tail, then the other's
    assert [step(both, [8, 8]) for _ in range(5)] == closing
    mx.eval([cache.state for caches in both for cache in caches])
    assert at_once(lambda: step(both, [1, 1])) == [False], "another thread's may be lazy"
