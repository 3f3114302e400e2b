"""Kernels compiled before a decode step needs them.

A compiler takes a tenth of a second for a kernel on Metal and two seconds on CUDA, in every process
anew. So what a verdict has found right is launched once beforehand: one threadgroup, on blanks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import mlx.core as mx

from qwen3_mlx.metal import launch
from qwen3_mlx.metal.launch import Launch

MOST = 1 << 23
"""Bytes of one input: more than the rows that a threadgroup reads."""

WHOLE = ("attend", "combine", "gather_matmul")
"""Kernels that look at their arrays' shapes, or read them far apart: those stay as they are."""


def one_group(given: Launch) -> Launch:
    """The first threadgroup of `given`, with long inputs cut to what it may read."""
    if given.kernel in WHOLE:
        return replace(given, grid=given.threadgroup)
    cut: dict[int, mx.array] = {}  # an array given twice stays one: the text names it once

    def short(array: mx.array) -> mx.array:
        if array.nbytes <= MOST:
            return array
        return cut.setdefault(id(array), mx.zeros((MOST // array.itemsize,), array.dtype))

    inputs = {name: short(array) for name, array in given.inputs.items()}
    return replace(given, inputs=inputs, grid=given.threadgroup)


def compile_ahead(launches: Iterable[Launch], given_up: Callable[[], bool] = lambda: False) -> int:
    """Have `launches` compiled, one after the other; returns how many were.

    given_up: asked before each. What fails here is left to the step that needs it, which goes
    back to MLX's operations.
    """
    done = 0
    for one in launches:
        if given_up():
            break
        try:
            mx.eval(launch.run(one_group(one)))
        except Exception:
            break
        done += 1
    return done
