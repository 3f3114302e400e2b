"""Several sequences at once, ours in fused steps of rows and in MLX's operations, and mlx-lm's.

mlx-lm's `BatchGenerator` begins with caches of the same length, so that nothing is prefilled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from benchmarks.gpu import RESULTS, say
from benchmarks.gpu.rates import SIZES, fill, net_of, twin_of
from benchmarks.record import interleaved, summary
from qwen3_mlx.bench.rows import Steps, seconds
from qwen3_mlx.metal import layer
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.fused_rows import choose_operations
from qwen3_mlx.nn.signature import verdict_of

SEQUENCES = (1, 2, 4, 8, 16)
HELD: dict[tuple[str, bool], Any] = {}
"""Steps of a network, compiled once."""

NEW = (2, 4, 8)
"""Rows of one sequence: what checking drafts costs."""


def ours(shape: str, fused: bool, sequences: int, new: int = 1) -> float:
    """One sample: tokens a second of all rows together."""
    os.environ["QWEN3_MLX_KERNELS"] = "auto" if fused else "off"
    choose_backend(net_of(shape))
    steps: Steps = HELD.get((shape, fused)) or Steps.of(net_of(shape), fused)
    HELD[shape, fused] = steps
    took = seconds(steps, SIZES.context, sequences, new, SIZES.tokens)
    if steps.fused_rows is not None and steps.fused_rows.fault:
        RESULTS.setdefault("faults", {})[f"{shape} {sequences} x {new}"] = steps.fused_rows.fault
    return sequences * new / took


def theirs(shape: str, sequences: int) -> float:
    """One sample of mlx-lm's batch generator: tokens a second in all."""
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.models.cache import make_prompt_cache

    twin = twin_of(shape)
    caches: list[Any] = [make_prompt_cache(twin) for _ in range(sequences)]
    for cache in caches:
        fill(net_of(shape), shape, cache)
    most = SIZES.tokens + 8
    batch = BatchGenerator(twin, max_tokens=most, completion_batch_size=sequences)
    batch.insert([[1]] * sequences, [most] * sequences, caches=caches)
    while len(batch.next_generated()) < sequences:
        pass
    for _ in range(2):
        batch.next_generated()
    begin, made = time.perf_counter(), 0
    for _ in range(SIZES.tokens):
        made += len(batch.next_generated())
    took = time.perf_counter() - begin
    batch.close()
    return made / took


def compared(shape: str, rounds: int = 3) -> None:
    """All sides at each number of sequences, in an order shuffled anew each round."""
    os.environ["QWEN3_MLX_KERNELS"] = "auto"
    operations, reason = choose_operations(net_of(shape))
    way = {layer.ROWS: "on matrix units", None: f"no, {reason}"}.get(operations, "attention alone")
    held = verdict_of(net_of(shape))
    wrong = held.wrong if held is not None else {}
    RESULTS[f"way {shape}"] = {"fused": way, "wrong": wrong}
    say(f"{shape}: rows are fused: {way}; found wrong: {wrong or 'nothing'}")
    arms: dict[str, Callable[[], float]] = {}
    for count in SEQUENCES:
        arms[f"fused {count}"] = partial(ours, shape, True, count)
        arms[f"plain {count}"] = partial(ours, shape, False, count)
        arms[f"mlx-lm {count}"] = partial(theirs, shape, count)
    for new in NEW:
        arms[f"one sequence {new}"] = partial(ours, shape, True, 1, new)
    found = {name: summary(samples) for name, samples in interleaved(arms, rounds).items()}
    RESULTS[f"rows {shape}"] = found
    medians = {name: row["median"] for name, row in found.items()}
    for count in SEQUENCES:
        a, b, c = (medians[f"{side} {count}"] for side in ("fused", "plain", "mlx-lm"))
        say(
            f"{shape}, {count} sequences: fused {a:.0f} tok/s ({a / medians['fused 1']:.2f} x one,"
            f" {1e3 * count / a:.2f} ms), plain {b:.0f}, mlx-lm {c:.0f} ({a / c:.2f} x)"
        )
    for new in NEW:
        rate = medians[f"one sequence {new}"]
        step = new / rate * medians["fused 1"]
        say(f"{shape}, {new} rows of one sequence: {1e3 * new / rate:.2f} ms, {step:.2f} x one")
    mx.clear_cache()
