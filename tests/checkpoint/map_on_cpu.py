"""A child that maps on the processor, a copy for what MLX adopts, and what may go wrong in it.

QWEN3_TEST_FAULT: ``wrong`` (other numbers), ``refused``, ``hang``, ``segfault``, in a mapped way.
"""

from __future__ import annotations

import os
import time
from typing import Any

import mlx.core as mx

from qwen3_mlx.checkpoint import mapped, try_mapped

FAULT = os.environ.get("QWEN3_TEST_FAULT", "")


def wrap(view: Any) -> mx.array:
    if FAULT == "refused":
        raise ValueError("no")
    if FAULT == "hang":
        time.sleep(600)
    if FAULT == "segfault":
        os.kill(os.getpid(), 11)
    return mx.array(view) + 1 if FAULT == "wrong" else mx.array(view)


if __name__ == "__main__":
    mapped._wrap = wrap
    try_mapped.main()
