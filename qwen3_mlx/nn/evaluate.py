"""Computing now what would be computed later, so that memory is free before more is taken.

MLX allocates ahead of what it computes: what a lazy graph needs together is not what is alive in
Python, but all that some hundred operations make (docs/log.md).
"""

from __future__ import annotations

import qwen3_mlx.device.backend as backend

import mlx.core as mx

PACED_FROM = 64
"""Tokens from which a GPU is given one layer at a time, so that what two layers make is alive at
most. On CUDA all layers' would be: 10.8 GB for 2,048 tokens through 30B-A3B on an H100."""


def evaluate_now(*arrays: mx.array) -> bool:
    """Compute `arrays` now, so that what they needed is free; False inside `mx.compile`."""
    try:
        mx.eval(*arrays)
    except ValueError:  # "Attempting to eval an array during function transformations"
        return False
    return True


def crowded(tokens: int) -> bool:
    """Whether what `tokens` need is worth waiting for, on a GPU."""
    return tokens >= PACED_FROM and backend.device() != "cpu"


def pace(x: mx.array, behind: mx.array) -> None:
    """Begin to compute a layer's output ``x [B, L, C]``, and wait for that of the layer `behind`.

    So the GPU has work while the next layer is written down. Few tokens, a CPU (which
    waits in `nn.unpacked`), and a trace are left alone.
    """
    if not crowded(x.size // x.shape[-1]):
        return
    try:
        mx.async_eval(x)
    except ValueError:  # as in `evaluate_now`
        return
    mx.eval(behind)
