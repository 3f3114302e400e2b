"""How fast mlx-lm decodes, by its own generator."""

from __future__ import annotations

import time
from typing import Any

import mlx.core as mx


def tokens_a_second(twin: Any, cache: list[Any], tokens: int) -> float:
    """Tokens a second of mlx-lm's generate_step behind `cache`."""
    from mlx_lm.generate import generate_step

    steps = generate_step(mx.array([1]), twin, max_tokens=tokens + 3, prompt_cache=cache)
    for _ in range(3):
        next(steps)
    begin = time.perf_counter()
    for _ in range(tokens):
        next(steps)
    took = time.perf_counter() - begin
    steps.close()
    return tokens / took
