"""Sums over all processes by size, and where their time goes: host, stream, order, number."""

from __future__ import annotations

import time
from collections.abc import Callable

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from benchmarks.machines import RESULTS, SIZE, keep, say

Step = Callable[[mx.array], mx.array]

SIZES = (1024, 8192, 65_536, 1 << 20, 1 << 24)
"""Bytes; 8 KB is a token of 8B, 16 MB a prompt of 2,048 tokens."""


def chained(step: Step, x: mx.array, count: int) -> dict[str, float]:
    """µs a step of `count` that need each other: the host's part, and all of it."""
    best = {"host": 1e9, "total": 1e9}
    for turn in range(4):
        begin = time.perf_counter()
        y = x
        for _ in range(count):
            y = step(y)
        mx.async_eval(y)
        host = time.perf_counter() - begin
        mx.eval(y)
        total = time.perf_counter() - begin
        if turn:
            best = {"host": min(best["host"], host), "total": min(best["total"], total)}
    return {name: 1e6 * seconds / count for name, seconds in best.items()}


def waited(step: Step, x: mx.array, count: int) -> float:
    """µs a step that is waited for each time."""
    mx.eval(step(x))
    begin = time.perf_counter()
    for _ in range(count):
        mx.eval(step(x))
    return 1e6 * (time.perf_counter() - begin) / count


def total(x: mx.array) -> mx.array:
    return mx.distributed.all_sum(x)


def summed(x: mx.array) -> mx.array:
    return mx.distributed.all_sum(x) * (1 / SIZE)


def halved(x: mx.array) -> mx.array:
    return x * 0.5


def ten_apart(x: mx.array) -> mx.array:
    """Ten sums that don't need each other."""
    parts = [mx.distributed.all_sum(x + i) for i in range(10)]
    return mx.stack(parts).sum(axis=0) * 0.01


def ten_in_one(x: mx.array) -> mx.array:
    """The same ten, put together for one sum."""
    parts = mx.stack([x + i for i in range(10)])
    return mx.distributed.all_sum(parts).sum(axis=0) * 0.01


def by_size(quick: bool) -> None:
    """Waited for and chained, by bytes, in bfloat16."""
    for size in SIZES[:2] if quick else SIZES:
        x = mx.ones((size // 2,), mx.bfloat16)
        count = 200 if size <= 65_536 else 40
        row = {"waited": waited(total, x, count // 4), "chained": chained(summed, x, count)}
        RESULTS[f"{size} bytes"] = row
        say(f"{size:>9} bytes: waited {row['waited']:.0f} µs, chained {row['chained']}")
        keep("sums")


def ways(name: str) -> None:
    """8 KB: what graph, stream, compilation and number make of it."""
    x = mx.ones((4096,), mx.bfloat16)
    with_ten = mx.compile(lambda y: _times(summed, y, 10))
    rows: dict[str, Callable[[], dict[str, float]]] = {
        "no sum": lambda: chained(halved, x, 200),
        "sum": lambda: chained(summed, x, 200),
        "sum, float32": lambda: chained(summed, x.astype(mx.float32), 200),
        "sum, ten in a compiled function": lambda: _tenth(chained(with_ten, x, 20)),
        "sum alone, unscaled": lambda: chained(total, mx.zeros((4096,), mx.bfloat16), 200),
        "ten apart": lambda: _tenth(chained(ten_apart, x, 20)),
        "ten in one": lambda: _tenth(chained(ten_in_one, x, 20)),
    }
    if backend.device() != "cpu":
        other = mx.new_stream(mx.default_device())
        rows["sum on another stream"] = lambda: chained(
            lambda y: mx.distributed.all_sum(y, stream=other) * (1 / SIZE), x, 200
        )
    for way, measure in rows.items():
        RESULTS[way] = measure()
        say(f"{way}: " + ", ".join(f"{k} {v:.1f} µs" for k, v in RESULTS[way].items()))
        keep(name)


def _times(step: Step, x: mx.array, count: int) -> mx.array:
    for _ in range(count):
        x = step(x)
    return x


def _tenth(row: dict[str, float]) -> dict[str, float]:
    return {name: value / 10 for name, value in row.items()}


def run(name: str, tiny: bool) -> None:
    """All of it for the first variant, 8 KB alone for the others."""
    mx.distributed.init(strict=True)
    if name == "sums":
        by_size(tiny)
        ways(name)
    else:
        x = mx.ones((4096,), mx.bfloat16)
        for way, step in (("no sum", halved), ("sum", summed)):
            RESULTS[way] = chained(step, x, 200)
            say(f"{way}: {RESULTS[way]}")
        keep(name)
