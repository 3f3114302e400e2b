"""The cases of each phase of `benchmarks.gpu`, by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from benchmarks.gpu import RESULTS, drafts, say
from benchmarks.gpu.accuracy import layer_cases
from benchmarks.gpu.blocks import blocks, crossover
from benchmarks.gpu.rates import SIZES, decode, ours, prefill, theirs
from benchmarks.gpu.rows import compared
from benchmarks.gpu.tokens import compare
from qwen3_mlx.bench.random_network import config_values, mlx_lm_twin, network
from qwen3_mlx.config import Qwen3Config


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
    RESULTS["tokens"] = compare(say, 4 if SIZES.tiny else 128)


def compile_theirs(shape: str) -> None:
    """Have MLX compile what mlx-lm's network of `shape` needs, on two layers; MLX keeps it."""
    from mlx_lm.generate import generate_step

    values = config_values(shape, "4bit", 2)
    twin = mlx_lm_twin(network(Qwen3Config.from_dict(values)), values)
    for length in (1, 2048):
        start = time.perf_counter()
        prompt = mx.array([token % 997 for token in range(length)])
        for _ in generate_step(prompt, twin, max_tokens=4):
            pass
        say(f"compiled {shape}, {length} tokens: {time.perf_counter() - start:.0f} s")


def cases() -> dict[str, dict[str, Callable[[], None]]]:
    """A phase's cases in the order of their worth."""
    moe, dense = SIZES.moe, SIZES.dense
    return {
        "compile": {shape: partial(compile_theirs, shape) for shape in (moe, dense)},
        "accuracy": {"accuracy": accuracy},
        "tokens": {"tokens": tokens},
        "moe": {
            "decode": lambda: decode(
                moe, {"fused": lambda: ours(moe), "mlx-lm": lambda: theirs(moe)}
            ),
            "prefill": lambda: prefill(moe, ["auto", "grouped", "mlx-lm"]),
            "blocks": lambda: blocks(("fused", "empty", "stock")),
            "plain": lambda: decode(moe, {"plain": lambda: ours(moe, "off")}, 3),
            "prefill packed": lambda: prefill(moe, ["packed"], 2),
        },
        "dense": {
            "decode": lambda: decode(
                dense,
                {
                    "fused": lambda: ours(dense),
                    "plain": lambda: ours(dense, "off"),
                    "mlx-lm": lambda: theirs(dense),
                },
            ),
            "prefill": lambda: prefill(dense, ["grouped", "packed", "mlx-lm"]),
        },
        "rows-dense": {"rows": lambda: compared(dense)},
        "rows-moe": {"rows": lambda: compared(moe)},
        "drafts-dense": {"drafts": lambda: drafts.compared(dense)},
        "drafts-moe": {"drafts": lambda: drafts.compared(moe)},
        "crossover": {"crossover": crossover},
        "host": {"decode ours": lambda: decode(moe, {"fused": lambda: ours(moe)}, 3)},
        "more": {"more": more},
    }


def on_the_shim() -> None:
    """Run kernels as Metal text on a CPU, as the tests do: slow, but the script can be tried."""
    from qwen3_mlx.metal import launch
    from tests.metal.harness import on_cpu

    launch.executor = on_cpu
    mx.disable_compile()
