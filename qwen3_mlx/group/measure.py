"""Measures the group's links, and compares the divisions of a model by predicted rates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import WAYS, Share
from qwen3_mlx.errors import OptionError, gb
from qwen3_mlx.fit.group_speed import Link, mac, tokens_a_second
from qwen3_mlx.fit.inequality import weights_from_config
from qwen3_mlx.fit.machine import mac as mac_of
from qwen3_mlx.hub.releases import SIZES
from qwen3_mlx.nn.pipeline import Stage

TOKEN, PROMPT = 8192, 1 << 23
"""Bytes of an all-reduce: for one token of 235B-A22B, and for a thousand."""
Speeds = dict[str, float]


def speeds(backend: str, rank: int, size: int) -> Speeds:
    """Seconds of a small all-reduce in a dependent chain, and bytes/s of a large one.

    If the backend can send, also seconds from one machine to the next.
    """
    small, large = _seconds(TOKEN, 50), _seconds(PROMPT, 4)
    found = {"sum_s": small, "bytes_s": PROMPT / large}
    return found if backend == "nccl" else found | {"hop_s": _hop_seconds(Stage(rank, size), 50)}


def _hop_seconds(stage: Stage, count: int) -> float:
    """Seconds per hop of one token's hidden state around all machines."""
    x = mx.zeros((1, 1, TOKEN // 4), mx.float32)
    best = 1e9
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(count):
            x = stage.hand_on(stage.take(x.shape, x.dtype) if stage.rank else x)
            mx.eval(x)
        best = min(best, (time.perf_counter() - begin) / count / stage.size)
    return best


def _seconds(nbytes: int, count: int) -> float:
    x = mx.ones((nbytes // 4,), mx.float32)
    best = 1e9
    for _ in range(3):
        begin = time.perf_counter()
        y = x
        for _ in range(count):
            y = mx.distributed.all_sum(y) * 0.5
        mx.eval(y)
        best = min(best, (time.perf_counter() - begin) / count)
    return best


def report(size: int, found: Speeds, gigabytes: float = 128) -> Iterator[tuple[str, str]]:
    """Pairs of subject and text: the link's speeds, and predicted rates of the large models."""
    yield "a token's sum", f"{1e6 * found['sum_s']:.0f} µs for {TOKEN // 1024} KB"
    yield "a prompt's sum", f"{gb(found['bytes_s'], 2)}/s at {PROMPT >> 20} MB"
    if "hop_s" in found:
        yield "a pipeline's hop", f"{1e6 * found['hop_s']:.0f} µs for {TOKEN // 1024} KB"
    link = Link("measured", found["sum_s"], found.get("hop_s"))
    for name in ("30B-A3B", "235B-A22B"):
        packing = {"quantization": {"bits": 4, "group_size": 64}}
        whole = Qwen3Config.from_dict(SIZES[name].config() | packing)
        rates = {}
        if weights_from_config(whole).stored_bytes < mac_of(gigabytes).available_bytes:
            rates["one machine"] = tokens_a_second(whole, Share(0, 1), mac(gigabytes), link)
        for way, (attention, pipeline) in WAYS.items():
            if pipeline and "hop_s" not in found:
                continue  # the backend can't send
            share = Share(0, size, attention, pipeline)
            with suppress(OptionError):
                rates[way] = tokens_a_second(whole, share, mac(gigabytes), link)
        best = max(rates, key=lambda way: rates[way])
        text = ", ".join(f"{way} {rate:.0f}" for way, rate in rates.items())
        yield name, f"{best} pays; tokens a second on M4 Max of {gigabytes:g} GB, computed: {text}"
