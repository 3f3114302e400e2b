"""Two steps of every batch shape of a recipe, the shortest rows first: seconds, and peak memory.

    python -m training.check --model demo-moe --compute bfloat16

Run it before a training run on a new machine: a shape that doesn't fit, doesn't compile or takes
minutes shows in its own line, and costs no run; on CUDA the kernels it compiles, which takes
minutes, are kept on disk for the run. ``--rows N`` takes so many rows a batch instead.
"""

from __future__ import annotations

import argparse
import os
import time

# Every shape keeps its CUDA graphs; with many kept they fill the GPU (docs/log/2026-11.md).
os.environ.setdefault("MLX_CUDA_GRAPH_CACHE_SIZE", "40")

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from qwen3_mlx.nn.transformer import Qwen3Network
from training.recipe import Batch, Recipe
from training.step import Trainer, initialise
from training.tokenizer import ENTRIES


def steps(trainer: Trainer, batch: Batch) -> tuple[float, float, int]:
    """Seconds of the first step and of the second, and the peak of active memory in bytes."""
    tokens = mx.random.randint(0, ENTRIES, (batch.rows, batch.length + 1))
    mask = mx.ones(tokens.shape, mx.uint8)
    mx.eval(tokens, mask, trainer.state())
    mx.clear_cache()
    mx.reset_peak_memory()
    took = []
    for _ in range(2):
        start = time.monotonic()
        mx.eval(trainer.step(tokens, mask, 0.0), trainer.state())
        took.append(time.monotonic() - start)
    return took[0], took[1], mx.get_peak_memory()


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo-moe", help="a recipe in training/models")
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, help="rows of every batch, instead of the recipe's")
    args = parser.parse_args()
    recipe = Recipe.named(args.model)
    network = Qwen3Network(recipe.network_config(ENTRIES))
    compute = mx.bfloat16 if args.compute == "bfloat16" else mx.float32
    parameters = initialise(network, recipe.seed)
    trainer = Trainer(network, recipe.optimizer, parameters, compute, recipe.balance)
    for batch in sorted(recipe.batches, key=lambda batch: batch.length):
        sized = Batch(batch.length, args.rows or batch.rows, batch.share)
        print(f"{sized.length} x {sized.rows} …", flush=True)
        first, second, peak = steps(trainer, sized)
        print(f"  {first:.1f} s, then {second:.2f} s, peak {peak / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
