"""Decode and prefill of whole networks with random weights, for `benchmarks.gpu`.

Contexts of decoding are random keys and values, so that no prefill has to be compiled for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from benchmarks.gpu import RESULTS, say
from benchmarks.mlx_lm_decode import tokens_a_second
from benchmarks.record import interleaved, summary
from qwen3_mlx.bench import rates
from qwen3_mlx.bench.random_network import (
    bandwidth,
    bytes_per_token,
    config_values,
    mlx_lm_twin,
    network,
)
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network


@dataclass(slots=True)
class Sizes:
    """The shapes that are measured, and the lengths of prompts and contexts."""

    moe: str = "30b-a3b"
    dense: str = "8b"
    context: int = 512
    tokens: int = 64
    prompt: int = 2048
    tiny: bool = False

    def shrink(self) -> None:
        """Take tiny networks, to try the script."""
        self.moe, self.dense, self.tiny = "tiny-moe", "tiny", True
        self.context, self.tokens, self.prompt = 32, 4, 64


SIZES = Sizes()
PEAKS: dict[str, int] = {}
HELD: dict[str, Any] = {}
"""Networks and twins, built once."""


def net_of(shape: str) -> Qwen3Network:
    if shape not in HELD:
        HELD[shape] = network(Qwen3Config.from_dict(config_values(shape, "4bit")))
        say(f"{shape} is built")
    found: Qwen3Network = HELD[shape]
    return found


def twin_of(shape: str) -> Any:
    """mlx-lm's, with the same weights."""
    key = f"{shape} mlx-lm"
    if key not in HELD:
        HELD[key] = mlx_lm_twin(net_of(shape), config_values(shape, "4bit"))
    return HELD[key]


def fill(net: Qwen3Network, shape: str, layers: list[Any]) -> None:
    """Random keys and values of ``SIZES.context`` tokens, ours or mlx-lm's cache."""
    values, dtype = config_values(shape), net.model.norm.weight.dtype
    size = (1, values["num_key_value_heads"], SIZES.context, values["head_dim"])
    for one in layers:
        one.keys, one.values = (mx.random.normal(size).astype(dtype) for _ in range(2))
        one.offset = SIZES.context
    mx.eval([[one.keys, one.values] for one in layers])


def ours(shape: str, kernels: str = "auto") -> dict[str, float]:
    """One sample of pipelined greedy steps: tokens a second, and the host's ms of a step."""
    os.environ["QWEN3_MLX_KERNELS"] = kernels
    net = net_of(shape)
    choose_backend(net)
    cache = PromptCache(net)
    fill(net, shape, cache.layers)
    forward = cache.step or net

    def step(token: mx.array) -> mx.array:
        following = mx.argmax(forward(token[None], cache.layers)[:, -1], axis=-1)
        mx.async_eval(following)
        return following

    token = step(mx.array([1], mx.uint32))
    for _ in range(2):
        token = step(token)
    mx.eval(token)
    begin, host = time.perf_counter(), 0.0
    for _ in range(SIZES.tokens):
        start = time.perf_counter()
        following = step(token)
        host += time.perf_counter() - start
        mx.eval(token)
        token = following
    mx.eval(token)
    took = time.perf_counter() - begin
    return {"decode": SIZES.tokens / took, "host_ms": 1e3 * host / SIZES.tokens}


def theirs(shape: str) -> dict[str, float]:
    """One sample of mlx-lm's generate_step from a cache of the same length."""
    from mlx_lm.models.cache import make_prompt_cache

    twin = twin_of(shape)
    cache = make_prompt_cache(twin)
    fill(net_of(shape), shape, cache)
    return {"decode": tokens_a_second(twin, cache, SIZES.tokens)}


def decode(shape: str, arms: dict[str, Callable[[], dict[str, float]]], rounds: int = 4) -> None:
    """Interleaved samples of the arms; medians with their share of the roofline."""
    net, config = net_of(shape), Qwen3Config.from_dict(config_values(shape, "4bit"))
    if "bandwidth" not in RESULTS:
        RESULTS["bandwidth"] = bandwidth(1.0 if backend.device() != "cpu" else 0.05)
    active = bytes_per_token(net, config, SIZES.context)
    for name, samples in interleaved(arms, rounds).items():
        row = {key: summary([s[key] for s in samples]) for key in samples[0]}
        share = row["decode"]["median"] * active / RESULTS["bandwidth"]
        RESULTS.setdefault(f"decode {shape}", {})[name] = row | {"share_of_roofline": share}
        host = f", host {row['host_ms']['median']:.2f} ms" if "host_ms" in row else ""
        say(f"decode {shape} {name}: {row['decode']['median']:.1f} tok/s, {share:.1%}{host}")


def prefill(shape: str, ways: list[str], rounds: int = 3) -> None:
    """Interleaved prefill of ``SIZES.prompt`` tokens, by each value of ``QWEN3_MLX_PREFILL``."""
    ids = rates.prompt(SIZES.prompt, 1000)

    def arm(way: str) -> Callable[[], float]:
        def once() -> float:
            if way == "mlx-lm":
                return rates.theirs(twin_of(shape), ids, 1).prefill
            os.environ["QWEN3_MLX_PREFILL"] = way
            choose_backend(net_of(shape))
            mx.reset_peak_memory()
            rate = rates.ours(net_of(shape), ids, 1).prefill
            PEAKS[way] = mx.get_peak_memory()
            return rate

        return once

    for way, samples in interleaved({way: arm(way) for way in ways}, rounds).items():
        row = summary(samples) | {"peak_memory": PEAKS.get(way)}
        RESULTS.setdefault(f"prefill {shape}", {})[way] = row
        peak = f", peak {PEAKS[way] / 1e9:.1f} GB" if way in PEAKS else ""
        say(f"prefill {shape} {way}: {row['median']:.0f} tok/s{peak}")
