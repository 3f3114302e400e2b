"""Evaluates arrays early, so that MLX frees memory before it allocates more.

MLX allocates ahead of what it computes: a lazy graph holds the outputs of some hundred operations,
not only the arrays that are alive in Python (docs/log.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import qwen3_mlx.device.backend as backend

import mlx.core as mx

PACED_FROM = 64
"""Tokens from which a GPU gets one layer at a time, so that at most two layers' arrays are alive.
CUDA would otherwise hold all layers' arrays: 10.8 GB for 2,048 tokens of 30B-A3B on an H100."""

GROWN_BYTES = 2**26
"""Bytes of grown buffers that a fused step evaluates together: a wait costs a GPU 0.1 ms, and eight
sequences of 8B have 576 buffers. As much of the smaller buffers is held meanwhile."""


class _Grown(threading.local):
    """The grown buffers that this thread hasn't evaluated, while it opens a fused step's caches."""

    waiting: list[mx.array] | None = None


_grown = _Grown()


def evaluate_now(*arrays: mx.array) -> bool:
    """Evaluate `arrays` now, which frees their inputs; returns False inside `mx.compile`."""
    try:
        mx.eval(*arrays)
    except ValueError:  # "Attempting to eval an array during function transformations"
        return False
    return True


def crowded(tokens: int) -> bool:
    """Whether `tokens` on a GPU take so much memory that evaluating early pays."""
    return tokens >= PACED_FROM and backend.device() != "cpu"


def pace(x: mx.array, behind: mx.array) -> None:
    """Start to evaluate a layer's output ``x [B, L, C]``, then wait for the previous one, `behind`.

    The GPU thus has work while Python builds the next layer. Does nothing below `PACED_FROM` tokens
    and inside `mx.compile`.
    """
    if x.size // x.shape[-1] < PACED_FROM:
        return
    try:
        mx.async_eval(x)
    except ValueError:  # as in `evaluate_now`
        return
    mx.eval(behind)


@contextmanager
def growing_together() -> Iterator[None]:
    """Within the block, `evaluate_grown` waits for `GROWN_BYTES` of buffers at a time.

    What is left of them is evaluated with the step that reads them.
    """
    _grown.waiting = []
    try:
        yield
    finally:
        _grown.waiting = None


def evaluate_grown(buffer: mx.array) -> None:
    """Evaluate a buffer that replaces a smaller one, which frees that one."""
    waiting = _grown.waiting
    if waiting is None:
        evaluate_now(buffer)
        return
    waiting.append(buffer)
    if sum(each.nbytes for each in waiting) >= GROWN_BYTES:
        evaluate_now(*waiting)
        waiting.clear()
