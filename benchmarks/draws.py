"""Milliseconds of a draw from Qwen3's vocabulary, for 1, 8 and 16 rows.

    python -m benchmarks.draws

Beside it the same with all scores in one block, so that MLX's argpartition looks at every one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import qwen3_mlx.device.backend  # noqa: F401  (first: it loads a BLAS before MLX)

import mlx.core as mx

from qwen3_mlx.engine import logit_filters
from qwen3_mlx.engine.logit_filters import drawn
from qwen3_mlx.options import NOT_THINKING

VOCABULARY, REPEATS = 151_936, 40


def milliseconds(draw: Callable[[], mx.array]) -> float:
    """The median of `REPEATS` draws, after one that compiles."""
    mx.eval(draw())
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        mx.eval(draw())
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main() -> None:
    block = logit_filters.BLOCK
    for rows in (1, 8, 16):
        logits = mx.random.normal((rows, VOCABULARY))
        keys = [mx.random.key(row)[None] for row in range(rows)]
        mx.eval(logits, keys)
        found = []
        for logit_filters.BLOCK in (block, VOCABULARY):
            found.append(milliseconds(lambda: drawn(logits, NOT_THINKING, keys)))  # noqa: B023
        logit_filters.BLOCK = block
        print(f"{rows:2} rows: {found[0]:.2f} ms, by sorting all {found[1]:.2f}")


if __name__ == "__main__":
    main()
