"""The host's time to build one decode step, in ms, at 30B-A3B's depth and tiny widths.

    python -m benchmarks.host

No GPU is needed: graphs are built, not computed. Three ways: MLX's own operations one by one (the
plain path), our launches traced (paid once a conversation), and a replay of as many compiled nodes
with as many inputs as our launches have (paid a token). What a backend does with a node comes on
top: `host_ms` of ``benchmarks.gpu`` has that.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from benchmarks.record import interleaved, summary, write
from qwen3_mlx.bench.random_network import config_values, network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal import launch as build
from qwen3_mlx.metal import layer, tuning
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network

LAYERS = 48


def tiny() -> Qwen3Network:
    """48 layers of 16 experts, 256 wide."""
    return network(Qwen3Config.from_dict(config_values("tiny-moe", "4bit", LAYERS)))


def filled(layers: list[Any]) -> list[Any]:
    """Give the caches a past of 100 tokens; returns them."""
    for one in layers:
        one.keys, one.values = (mx.zeros((1, 2, 256, 128)) for _ in range(2))
        one.offset = 100
    mx.eval([[one.keys, one.values] for one in layers])
    return layers


def plain(net: Qwen3Network) -> float:
    """Build one step's operations without computing them; returns ms."""
    cache = filled(net.make_cache())
    token = mx.array([[1]])
    start = time.perf_counter()
    net.model(token, cache)
    return (time.perf_counter() - start) * 1e3


def traced(net: Qwen3Network) -> tuple[float, list[int]]:
    """Trace our launches as Metal; returns ms, and the inputs of each launch."""
    inputs: list[int] = []

    def noted(launch: build.Launch) -> list[mx.array]:
        inputs.append(len(build.distinct(launch)[0]))
        return build.on_gpu(launch)

    took: list[float] = []
    device, before = backend.device, build.executor
    backend.device, build.executor = lambda: "metal", noted
    try:
        step = FusedStep(net)
        cache: Any = filled(step.make_cache())

        def forward(token: mx.array) -> mx.array:
            pasts, counts = [held.open() for held in cache], mx.array([100, 0], mx.int32)
            start = time.perf_counter()
            x, turns = step._begin(token, counts)
            whole = slice(0, len(step.layers))
            out, _ = step._through(layer.FUSED, whole, x, turns, pasts, counts)
            took.append((time.perf_counter() - start) * 1e3)
            return out

        with tempfile.TemporaryDirectory() as folder:
            mx.export_function(f"{folder}/f.mlxfn", forward, mx.array([[1]]))
    finally:
        backend.device, build.executor = device, before
    return statistics.median(took), inputs


def replay(inputs: list[int]) -> Callable[[], float]:
    """A chain of compiled nodes with so many inputs each; ms of a call, nothing computed."""
    weights = [[mx.zeros((1,)) for _ in range(count - 1)] for count in inputs]
    mx.eval(weights)

    def chain(x: mx.array) -> mx.array:
        for own in weights:
            x = mx.concatenate([x, *own])
        return x

    compiled, x = mx.compile(chain), mx.zeros((1,))
    compiled(x)

    def once() -> float:
        start = time.perf_counter()
        compiled(x)
        return (time.perf_counter() - start) * 1e3

    return once


def main() -> None:
    net = tiny()
    rows: dict[str, Any] = {}
    for choosing in (False, True):
        tuning.choosing = partial(bool, choosing)
        ms, inputs = traced(net)
        name = f"fused, {len(inputs)} launches, {sum(inputs)} inputs"
        found = interleaved({"plain": lambda: plain(net), "replay": replay(inputs)}, 9)
        rows[name] = {"traced": ms} | {key: summary(times) for key, times in found.items()}
        print(f"{name}: traced once {ms:.1f} ms; a token: replay "
              f"{rows[name]['replay']['median']:.2f} ms, plain path "
              f"{rows[name]['plain']['median']:.2f} ms")  # fmt: skip
    print(write("host", rows))


if __name__ == "__main__":
    main()
