"""Decode and prefill of a published shape with random weights, beside mlx-lm with the same ones.

    python -m benchmarks.decode --shape 30b-a3b --recipe 4bit --context 512 --tokens 128

Both sides in one process, interleaved in an order shuffled anew each round; greedy; medians of
`--rounds`. ``--arms`` also knows ``plain``: this package with its kernels switched off.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import qwen3_mlx.backend as backend

import mlx.core as mx
import mlx.nn as nn

from benchmarks.record import interleaved, summary, write
from benchmarks.shapes import RECIPES, SHAPES, bandwidth, bytes_per_token, mlx_lm_twin, network
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.nn.transformer import Qwen3
from qwen3_mlx.options import Sampling

GREEDY = Sampling(0.0, 1.0, 0, 0.0, 0.0, 1.0)
Rates = tuple[float, float]
"""Prefill and decode, tokens per second."""


def prompt(length: int, vocabulary: int) -> list[int]:
    """Some ids."""
    return [(7 * i * i + 3 * i) % vocabulary for i in range(length)]


def ours(net: Qwen3, ids: list[int], tokens: int, kernels: str) -> Rates:
    """One run through the engine, as `generate` runs it."""
    os.environ["QWEN3_MLX_KERNELS"] = kernels
    cache = PromptCache(net)
    start = time.perf_counter()
    logits = prefill(net, ids, cache)
    assert logits is not None
    mx.eval(logits)
    middle = time.perf_counter()
    decoder = Decoder(net, cache, Sampler(GREEDY, logits.shape[-1]), logits)
    decoder.step()
    decoder.step()  # the first fused step is traced here
    begin = time.perf_counter()
    for _ in range(tokens):
        decoder.step()
    end = time.perf_counter()
    mx.synchronize()
    return len(ids) / (middle - start), tokens / (end - begin)


def theirs(model: nn.Module, ids: list[int], tokens: int) -> Rates:
    """One run through mlx-lm's ``generate_step``."""
    from mlx_lm.generate import generate_step

    start = time.perf_counter()
    steps = generate_step(mx.array(ids, mx.uint32), model, max_tokens=tokens + 3)
    next(steps)
    middle = time.perf_counter()
    next(steps)
    next(steps)
    begin = time.perf_counter()
    for _ in range(tokens):
        next(steps)
    end = time.perf_counter()
    steps.close()
    mx.synchronize()
    return len(ids) / (middle - start), tokens / (end - begin)


def measure(
    runs: dict[str, Callable[[], Rates]], rounds: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Summaries of prefill and decode of each arm; a warm-up round is dropped."""
    prefills: dict[str, list[float]] = {name: [] for name in runs}

    def timed(name: str) -> Callable[[], float]:
        def once() -> float:
            first, second = runs[name]()
            prefills[name].append(first)
            mx.clear_cache()
            return second

        return once

    decodes = interleaved({name: timed(name) for name in runs}, rounds)
    return {
        name: {"prefill": summary(prefills[name][1:]), "decode": summary(decodes[name])}
        for name in runs
    }


def arms(net: Qwen3, args: argparse.Namespace) -> dict[str, Callable[[], Rates]]:
    """The runs that `--arms` names."""
    ids = prompt(args.context, 1000)
    known: dict[str, Callable[[], Rates]] = {
        "qwen3-mlx": lambda: ours(net, ids, args.tokens, args.kernels),
        "plain": lambda: ours(net, ids, args.tokens, "off"),
    }
    if "mlx-lm" in args.arms:
        twin = mlx_lm_twin(net, args.shape, args.recipe, args.layers)
        known["mlx-lm"] = lambda: theirs(twin, ids, args.tokens)
    return {name: known[name] for name in args.arms}


def report(rows: dict[str, Any], roofline: float) -> None:
    """Print one table."""
    for name, row in rows.items():
        d, p = row["decode"], row["prefill"]
        flag = "  (noisy)" if d["noisy"] else ""
        share = 100 * d["median"] / roofline
        print(
            f"{name:10} decode {d['median']:8.1f} tok/s ({share:4.1f} % of roofline)"
            f"   prefill {p['median']:9.1f} tok/s{flag}"
        )


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="30b-a3b")
    parser.add_argument("--recipe", choices=RECIPES, default="4bit")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--arms", nargs="+", default=["qwen3-mlx", "mlx-lm"])
    parser.add_argument("--name", help="of the record")
    args = parser.parse_args()
    net = network(args.shape, args.recipe, args.layers)
    rows = measure(arms(net, args), args.rounds)
    rate = bandwidth(2.0 if backend.device() != "cpu" else 0.1)
    roofline = rate / bytes_per_token(net, args.shape, args.context)
    report(rows, roofline)
    results = vars(args) | {"rows": rows, "bandwidth": rate, "roofline": roofline}
    results["environment_variables"] = {k: v for k, v in os.environ.items() if k[:4] == "MLX_"}
    print(write(args.name or f"decode-{args.shape}-{args.recipe}-{args.context}", results))


if __name__ == "__main__":
    main()
