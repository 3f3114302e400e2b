"""Decoding behind a long context, keys and values as computed and packed, beside mlx-lm.

    python -m benchmarks.long --seconds 500
    python -m benchmarks.long --tiny          # tries the script, on any machine

Random weights; the context is random keys and values written straight into the caches, so only
its last chunk is read (and timed: prefill at that depth). Samples are taken in an order shuffled
anew each round. For each arm: decode and prefill in tokens a second, the bytes of the cache, and
MLX's peak while the chunk was read, beside what `qwen3_mlx.fit.inequality` predicts. A case, an
arm or a round that would begin later than `--seconds` is left out; the record is rewritten after
every arm, and a table comes last.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("MLX_ENABLE_TF32", "0")

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn

from benchmarks.record import write
from qwen3_mlx.bench.measure import interleaved, summary
from qwen3_mlx.bench.random_network import SHAPES, config_values, mlx_lm_twin, network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.fit import inequality, machine
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat, Sampling

START = time.perf_counter()
GREEDY = Sampling(0.0, 1.0, 0)
PIECE = 4096
"""Rows of random keys and values written at a time."""
CASES = ("8b:32768", "30b-a3b:32768", "30b-a3b:131072", "8b:131072")
TINY = {"cases": ["tiny:2048", "tiny-moe:2048"], "chunk": 128, "tokens": 8, "rounds": 2}
ARMS = ("computed", "mlx-lm", "8 bits", "mlx-lm 8 bits", "4 bits")
KEPT = {"computed": CacheFormat(), "8 bits": CacheFormat(bits=8), "4 bits": CacheFormat(bits=4)}


@dataclass
class Plan:
    """A case: `held` random rows, then a chunk that is read, then tokens that are written."""

    net: Qwen3Network
    values: dict[str, Any]
    context: int
    chunk: int
    tokens: int
    rows: dict[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> int:
        """Rows in the cache before the chunk is read."""
        return self.context - self.chunk - self.tokens - 4

    def ids(self) -> list[int]:
        return [(7 * i * i + 3 * i) % 1000 for i in range(self.chunk)]

    def fill(self, layers: list[Any]) -> None:
        """Write the random keys and values; both sides' caches take them alike."""
        c = self.values
        dtype = backend.compute_dtype(mx.bfloat16)[0]
        for start in range(0, self.held, PIECE):
            size = (1, c["num_key_value_heads"], min(PIECE, self.held - start), c["head_dim"])
            for layer in layers:
                rows = mx.random.normal(size).astype(dtype)
                layer.update_and_fetch(rows, rows)
                mx.eval(layer.state if isinstance(layer, KVCache) else [layer.keys, layer.values])

    def reading(self, read: Callable[[], object], layers: list[Any]) -> dict[str, Any]:
        """Read the chunk: speed, the cache's bytes, the peak beyond what was there before."""
        mx.clear_cache()
        before = mx.get_active_memory()
        held = sum(layer.nbytes for layer in layers)
        mx.reset_peak_memory()
        begin = time.perf_counter()
        mx.eval(read())
        took = time.perf_counter() - begin
        now = sum(layer.nbytes for layer in layers)
        return {
            "prefill": self.chunk / took,
            "kv_bytes": now,
            "scratch_bytes": mx.get_peak_memory() - before - (now - held),
        }


def ours(plan: Plan, cache_format: CacheFormat) -> tuple[dict[str, Any], Callable[[], float]]:
    """An arm of ours, its cache filled: what reading the chunk showed, and a decode sample."""
    cache = PromptCache(plan.net, cache_format)
    plan.fill(cache.layers)
    cache.tokens = [0] * plan.held
    row = plan.reading(lambda: prefill(plan.net, plan.ids(), cache, plan.chunk), cache.layers)
    row["fused"] = cache.step is not None
    cache.truncate(plan.held + plan.chunk - 1)

    def sample() -> float:
        logits = prefill(plan.net, [1], cache)
        assert logits is not None
        decoder = Decoder(plan.net, cache, Sampler(GREEDY, logits.shape[-1]), logits)
        decoder.step()
        begin = time.perf_counter()
        for _ in range(plan.tokens):
            decoder.step()
        took = time.perf_counter() - begin
        mx.synchronize()
        cache.truncate(plan.held + plan.chunk - 1)
        return plan.tokens / took

    return row, sample


def theirs(
    plan: Plan, twin: nn.Module, bits: int | None
) -> tuple[dict[str, Any], Callable[[], float]]:
    """An arm of mlx-lm's, through its own cache and ``generate_step``."""
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import KVCache as Theirs
    from mlx_lm.models.cache import QuantizedKVCache

    layers: list[Any] = [
        QuantizedKVCache(group_size=64, bits=bits) if bits else Theirs() for _ in plan.net.layers
    ]
    plan.fill(layers)
    row = plan.reading(lambda: twin(mx.array([plan.ids()]), cache=layers)[:, -1], layers)
    for layer in layers:
        layer.trim(1)
    length = layers[0].offset

    def sample() -> float:
        steps = generate_step(mx.array([1]), twin, max_tokens=plan.tokens + 2, prompt_cache=layers)
        next(steps)
        next(steps)
        begin = time.perf_counter()
        for _ in range(plan.tokens):
            next(steps)
        took = time.perf_counter() - begin
        steps.close()
        mx.synchronize()
        for layer in layers:
            layer.trim(layer.offset - length)
        return plan.tokens / took

    return row, sample


def predicted(plan: Plan, cache_format: CacheFormat) -> dict[str, int]:
    """Predict the bytes of the cache and of the scratch for reading this prompt in such chunks."""
    c = Qwen3Config.from_dict(plan.values)
    place = machine.this_machine()
    weights = inequality.weights_from_config(c)
    found = inequality.fit(c, weights, place, plan.held + plan.chunk, cache_format.bits, plan.chunk)
    return {"kv_bytes": found.kv_bytes, "scratch_bytes": found.scratch_bytes}


def measure(
    plan: Plan, arms: list[str], rounds: int, keep: Callable[[], object], until: float
) -> None:
    """All arms of a case, as far as they get `until` then; `keep` writes what is there."""
    twin = None
    if any(arm.startswith("mlx-lm") for arm in arms):
        twin = mlx_lm_twin(plan.net, plan.values)
    samples: dict[str, Callable[[], float]] = {}
    for arm in arms:
        if time.perf_counter() > until:
            say(f"  no time left for {arm}")
            continue
        try:
            if arm in KEPT:
                row, sample = ours(plan, KEPT[arm])
                row["predicted"] = predicted(plan, KEPT[arm])
            else:
                assert twin is not None
                row, sample = theirs(plan, twin, 8 if "8" in arm else None)
            say(f"  {arm}: read at {row['prefill']:,.0f} tok/s, {row['kv_bytes'] / 1e9:.2f} GB")
            say(f"  {arm}: wrote at {sample():.0f} tok/s at first")
            samples[arm] = sample
        except RuntimeError as fault:
            samples.pop(arm, None)
            plan.rows[arm] = {"failed": str(fault)}
            say(f"  {arm} FAILED: {str(fault)[:200]}")
            continue
        plan.rows[arm] = row
        keep()
    taken: dict[str, list[float]] = {arm: [] for arm in samples}
    for turn in range(rounds):
        if turn and time.perf_counter() > until:
            say(f"  no time left for rounds {turn + 1} to {rounds}")
            break
        for arm, (speed,) in interleaved(samples, 1, 0, seed=turn).items():
            taken[arm].append(speed)
            plan.rows[arm]["decode"] = summary(taken[arm])
        keep()


def table(results: dict[str, Any]) -> None:
    """Print a line for each arm."""
    print(f"{'':30} decode tok/s   read tok/s  cache GB  scratch MB, predicted/measured")
    for case, rows in results.items():
        if not isinstance(rows, dict):
            print(f"{case}: {rows[:100]}")
            continue
        for arm, row in rows.items():
            name = f"{case} {arm}"
            if "failed" in row:
                print(f"{name:30} failed: {row['failed'][:60]}")
                continue
            decode = f"{row['decode']['median']:12.1f}" if "decode" in row else f"{'–':>12}"
            said = row.get("predicted", {}).get("scratch_bytes")
            scratch = f"{said / 1e6:,.0f}" if said is not None else "–"
            print(
                f"{name:30} {decode} {row['prefill']:12,.0f} {row['kv_bytes'] / 1e9:9.2f}"
                f"  {scratch}/{row['scratch_bytes'] / 1e6:,.0f}"
            )


def say(text: str) -> None:
    """Print with the seconds since the start."""
    print(f"{time.perf_counter() - START:6.1f} s  {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--cases", nargs="+", default=list(CASES), help="SHAPE:CONTEXT")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    add("--layers", type=int)
    add("--chunk", type=int, default=2048)
    add("--tokens", type=int, default=32)
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=500)
    add("--name", default="long")
    add("--tiny", action="store_true", help="tiny networks, to try the script")
    if parser.parse_known_args()[0].tiny:
        parser.set_defaults(**TINY)
    args = parser.parse_args()
    results: dict[str, Any] = {}

    def keep() -> None:
        write(args.name, results)

    for case in args.cases:
        shape, _, context = case.partition(":")
        if shape not in SHAPES or not context.isdecimal():
            parser.error(f"--cases: got {case}, expected SHAPE:CONTEXT")
        if time.perf_counter() - START > args.seconds:
            say(f"no time left for {case}")
            continue
        say(f"== {case}")
        try:
            values = config_values(shape, "4bit", args.layers)
            net = network(Qwen3Config.from_dict(values).for_context(int(context)))
            plan = Plan(net, values, int(context), args.chunk, args.tokens)
            results[case] = plan.rows
            measure(plan, args.arms, args.rounds, keep, START + args.seconds)
        except Exception as fault:  # the other cases may still run
            results[f"{case} failed"] = str(fault)
            say(f"{case} FAILED: {type(fault).__name__}: {str(fault)[:400]}")
        mx.clear_cache()
        keep()
    table(results)


if __name__ == "__main__":
    main()
