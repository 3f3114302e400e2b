"""Decode and prefill of a published shape with random weights, beside mlx-lm with the same ones.

    python -m benchmarks.decode --shape 30b-a3b --recipe 4bit --context 512 --tokens 128

Both sides in one process, interleaved in an order shuffled anew each round; greedy; medians of
`--rounds`. ``--arms`` also knows ``plain``: this package with its kernels switched off.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from benchmarks.record import interleaved, summary, write
from qwen3_mlx.bench import rates
from qwen3_mlx.bench.random_network import (
    RECIPES,
    SHAPES,
    bandwidth,
    bytes_per_token,
    config_values,
    mlx_lm_twin,
    network,
)
from qwen3_mlx.bench.rates import Rates
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network


def ours(net: Qwen3Network, ids: list[int], tokens: int, kernels: str) -> Rates:
    """One run through the engine, as `generate` runs it, with these kernels."""
    os.environ["QWEN3_MLX_KERNELS"] = kernels
    choose_backend(net)
    return rates.ours(net, ids, tokens)


def measure(
    runs: dict[str, Callable[[], Rates]], rounds: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Summaries of prefill and decode of each arm; a warm-up round is dropped."""
    prefills: dict[str, list[float]] = {name: [] for name in runs}

    def timed(name: str) -> Callable[[], float]:
        def once() -> float:
            first, second = runs[name]()
            prefills[name].append(first)
            return second

        return once

    decodes = interleaved({name: timed(name) for name in runs}, rounds)
    return {
        name: {"prefill": summary(prefills[name][1:]), "decode": summary(decodes[name])}
        for name in runs
    }


def arms(net: Qwen3Network, args: argparse.Namespace) -> dict[str, Callable[[], Rates]]:
    """The runs that `--arms` names."""
    ids = rates.prompt(args.context, 1000)
    known: dict[str, Callable[[], Rates]] = {
        "qwen3-mlx": lambda: ours(net, ids, args.tokens, args.kernels),
        "plain": lambda: ours(net, ids, args.tokens, "off"),
    }
    if "mlx-lm" in args.arms:
        twin = mlx_lm_twin(net, config_values(args.shape, args.recipe, args.layers))
        known["mlx-lm"] = lambda: rates.theirs(twin, ids, args.tokens)
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
    config = Qwen3Config.from_dict(config_values(args.shape, args.recipe, args.layers))
    net = network(config)
    rows = measure(arms(net, args), args.rounds)
    rate = bandwidth()
    roofline = rate / bytes_per_token(net, config, args.context)
    report(rows, roofline)
    results = vars(args) | {"rows": rows, "bandwidth": rate, "roofline": roofline}
    print(write(args.name or f"decode-{args.shape}-{args.recipe}-{args.context}", results))


if __name__ == "__main__":
    main()
