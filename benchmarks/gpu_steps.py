"""The steps of `benchmarks.gpu`, a few to a process; the record is rewritten after every step.

python -m benchmarks.gpu_steps moe --name gpu-moe
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("QWEN3_MLX_KERNELS", "auto")

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from benchmarks.gpu_blocks import blocks, crossover
from benchmarks.gpu_rates import SIZES, decode, ours, prefill, theirs
from benchmarks.layer import RESULTS, START, layer_cases, say
from benchmarks.record import write
from qwen3_mlx.metal import probe


def accuracy() -> None:
    """The kernels at the sizes of 30B-A3B in bfloat16, beside MLX's own operations."""
    hidden, ffn, heads = (256, 128, (4, 2)) if SIZES.tiny else (2048, 768, (32, 4))
    for count in (1, 4, 8):
        layer_cases(mx.bfloat16, hidden, ffn, heads, count)


def more() -> None:
    """float32, float16, other sizes."""
    real = [
        (mx.float32, 2048, 768, (32, 4)),
        (mx.bfloat16, 4096, 1536, (64, 4)),
        (mx.float16, 2048, 768, (32, 8)),
    ]
    for case in [(mx.float32, 256, 128, (4, 2))] if SIZES.tiny else real:
        layer_cases(*case, 1)


def tokens() -> None:
    """Greedy tokens of the bundled models in float32, kernels on and off."""
    from benchmarks.tokens import compare

    RESULTS["tokens"] = compare(say, 4 if SIZES.tiny else 128)


STEPS: dict[str, dict[str, Callable[[], None]]] = {
    "accuracy": {"accuracy": accuracy},
    "tokens": {"tokens": tokens},
    "moe": {
        "decode": lambda: decode(
            SIZES.moe, {"fused": lambda: ours(SIZES.moe), "mlx-lm": lambda: theirs(SIZES.moe)}
        ),
        "prefill": lambda: prefill(SIZES.moe, ["auto", "grouped", "mlx-lm"]),
        "blocks": lambda: blocks(("fused", "empty", "stock")),
        "plain": lambda: decode(SIZES.moe, {"plain": lambda: ours(SIZES.moe, "off")}, 3),
        "prefill packed": lambda: prefill(SIZES.moe, ["packed"], 2),
    },
    "dense": {
        "decode": lambda: decode(
            SIZES.dense,
            {
                "fused": lambda: ours(SIZES.dense),
                "plain": lambda: ours(SIZES.dense, "off"),
                "mlx-lm": lambda: theirs(SIZES.dense),
            },
        ),
        "prefill": lambda: prefill(SIZES.dense, ["grouped", "packed", "mlx-lm"]),
    },
    "crossover": {"crossover": crossover},
    "host": {"decode ours": lambda: decode(SIZES.moe, {"fused": lambda: ours(SIZES.moe)}, 3)},
    "more": {"more": more},
}


def on_the_shim() -> None:
    """Kernels as Metal text on a CPU, as in the tests: slow, but the script can be tried."""
    from qwen3_mlx.metal import launch
    from tests.metal.harness import on_cpu

    launch.executor = on_cpu
    mx.disable_compile()


def main() -> None:
    """Run the steps of one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=STEPS)
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--name", required=True)
    args = parser.parse_args()
    if args.tiny:
        SIZES.shrink()
        if backend.device() == "cpu":
            on_the_shim()
    if args.phase != "accuracy":
        probe.fault = lambda name: None  # type: ignore[assignment]  # its compilations take time
    say(f"{args.phase} on {backend.device()} {mx.device_info().get('device_name', '')}")
    for name, step in STEPS[args.phase].items():
        begin = time.perf_counter()
        try:
            step()
        except Exception as fault:
            RESULTS[f"failed {name}"] = f"{type(fault).__name__}: {fault}"
            say(f"{name} FAILED: {type(fault).__name__}: {str(fault)[:400]}")
        RESULTS.setdefault("seconds", {})[name] = time.perf_counter() - begin
        write(args.name, RESULTS)
    say(f"done after {time.perf_counter() - START:.0f} s")


if __name__ == "__main__":
    main()
