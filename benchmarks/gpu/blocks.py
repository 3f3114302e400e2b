"""One Mixture-of-Experts block, and where unpacking begins to pay, for `benchmarks.gpu`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn

from benchmarks.gpu import RESULTS, say
from benchmarks.gpu.rates import SIZES, net_of
from benchmarks.record import interleaved, summary
from qwen3_mlx.bench.random_network import config_values
from qwen3_mlx.device.buffer_sizes import UNPACK_ROWS, UNPACK_ROWS_PER_EXPERT
from qwen3_mlx.metal import down, gate_up
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.experts import QuantizedExpertLinear
from qwen3_mlx.nn.fused_experts import matrix_of
from qwen3_mlx.nn.linear import Linear


def blocks(arms: tuple[str, ...]) -> None:
    """One Mixture-of-Experts block (norm, experts, residual) in µs, for 1 to 8 tokens."""
    net = net_of(SIZES.moe)
    some = net.layers[:24]
    count, top_k = (config_values(SIZES.moe)[key] for key in ("num_experts", "num_experts_per_tok"))
    for tokens in (1, 2, 4, 8):
        scores = mx.random.uniform(shape=(tokens, count))
        # contiguous, as `route` gives them: of a slice each kernel would make a copy first
        experts = mx.contiguous(mx.argsort(scores, axis=-1)[:, :top_k].astype(mx.uint32))
        weights = mx.full((tokens, top_k), 1 / top_k)

        def fused(x: mx.array, experts: mx.array = experts, w: mx.array = weights) -> mx.array:
            for one in some:
                norm, stack = one.post_attention_layernorm, one.mlp.switch_mlp
                gate, up = matrix_of(stack.gate_proj), matrix_of(stack.up_proj)
                h = gate_up.gate_up(x, gate, up, experts, w, norm.weight, norm.eps)
                x = down.down(h, matrix_of(stack.down_proj), experts, residual=x)
            return x

        def empty(x: mx.array) -> mx.array:
            for one in some:
                x = x + one.post_attention_layernorm(x)
            return x

        def stock(x: mx.array, experts: mx.array = experts, w: mx.array = weights) -> mx.array:
            for one in some:
                y = one.mlp.switch_mlp(one.post_attention_layernorm(x), experts)
                x = x + (y * w[..., None]).sum(-2).astype(x.dtype)
            return x

        x = mx.random.normal((tokens, some[0].post_attention_layernorm.weight.size))
        x = x.astype(net.model.norm.weight.dtype)
        chains = {"fused": fused, "empty": empty, "stock": stock}
        runs = {name: _timed(mx.compile(chains[name]), x, len(some)) for name in arms}
        row = {name: summary(samples) for name, samples in interleaved(runs, 9).items()}
        RESULTS.setdefault(f"blocks {'+'.join(arms)}", {})[f"T={tokens}"] = row
        say(f"T={tokens} " + ", ".join(f"{k} {v['median']:.1f} µs" for k, v in row.items()))


def _timed(chain: Callable[[mx.array], mx.array], x: mx.array, layers: int) -> Callable[[], float]:
    def once() -> float:
        begin = time.perf_counter()
        mx.eval([chain(x) for _ in range(4)])
        return (time.perf_counter() - begin) / (4 * layers) * 1e6

    return once


def crossover() -> None:
    """From how many rows unpacking pays: a matrix of 8B's, and a stack of 30B-A3B's experts."""
    moe, dense = config_values(SIZES.moe), config_values(SIZES.dense)
    dtype = net_dtype()
    wide, inner = dense["hidden_size"], dense["intermediate_size"]
    matrix: Any = Linear(wide, inner, bias=False)
    matrix.weight = (mx.random.normal((inner, wide)) * wide**-0.5).astype(dtype)
    matrix = matrix.to_quantized(64, 4)
    count = moe["num_experts"]
    size = (count, moe["moe_intermediate_size"], moe["hidden_size"])
    stack = QuantizedExpertLinear(mx.random.normal(size).astype(dtype), 64, 4, "affine")
    mx.eval(matrix.parameters(), stack.parameters())
    for rows in (16, 32, 64, 128, 256, 512):
        x = mx.random.normal((rows, wide)).astype(dtype)
        runs = {way: _call(way, partial(_matrix, matrix, x)) for way in ("packed", "grouped")}
        _cross(f"matrix, {rows} rows", runs)
    for each in (1, 2, 4, 8, 16, 64):
        x = mx.random.normal((each * count, 1, size[2])).astype(dtype)
        pairs = mx.sort(mx.random.randint(0, count, (each * count,)).astype(mx.uint32))

        _cross(
            f"experts, {each} rows each",
            {way: _call(way, partial(_product, stack, x, pairs)) for way in WAYS},
        )


def _matrix(layer: nn.Module, x: mx.array) -> mx.array:
    choose_backend(layer)
    out: mx.array = layer(x)
    return out


def _product(stack: QuantizedExpertLinear, x: mx.array, pairs: mx.array) -> mx.array:
    return choose_backend(stack).through_experts(x, pairs, True, stack)(stack, x)


WAYS = ["grouped", "packed"]


def net_dtype() -> mx.Dtype:
    """The dtype that a network computes in on this device."""
    return backend.compute_dtype(mx.bfloat16)[0]


def _call(way: str, make: Callable[[], mx.array]) -> Callable[[], float]:
    def once() -> float:
        os.environ["QWEN3_MLX_PREFILL"] = way
        begin = time.perf_counter()
        mx.eval([make() for _ in range(4)])
        return (time.perf_counter() - begin) / 4 * 1e6

    return once


def _cross(name: str, runs: dict[str, Callable[[], float]]) -> None:
    UNPACK_ROWS[backend.device()] = UNPACK_ROWS_PER_EXPERT[backend.device()] = 0
    row = {way: statistics.median(times) for way, times in interleaved(runs, 5).items()}
    RESULTS.setdefault("crossover", {})[name] = row
    say(f"{name}: " + ", ".join(f"{way} {us:.0f} µs" for way, us in row.items()))
