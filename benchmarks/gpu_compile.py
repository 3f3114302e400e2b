"""Has MLX compile what mlx-lm's networks need on a GPU, on two layers of each shape.

    python -m benchmarks.gpu_compile 30b-a3b 8b

Its quantized products are compiled at first use, 30B-A3B's for two and a half minutes, and then
kept on disk. Done beside phases that measure no time, it costs those that do nothing.
"""

from __future__ import annotations

import sys
import time

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.bench.random_network import config_values, mlx_lm_twin, network
from qwen3_mlx.config import Qwen3Config


def main() -> None:
    """Decode, then read a prompt, with every shape named."""
    from mlx_lm.generate import generate_step

    for shape in sys.argv[1:]:
        values = config_values(shape, "4bit", 2)
        twin = mlx_lm_twin(network(Qwen3Config.from_dict(values)), values)
        for length in (1, 2048):
            start = time.perf_counter()
            prompt = mx.array([token % 997 for token in range(length)])
            for _ in generate_step(prompt, twin, max_tokens=4):
                pass
            took = time.perf_counter() - start
            print(f"compiled {shape}, {length} tokens: {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
