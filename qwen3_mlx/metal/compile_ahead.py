"""Compiles kernels before a decode step needs them.

The compiler takes a tenth of a second per kernel on Metal and two seconds on CUDA, again in every
process. So the kernels that a verdict found right are launched once beforehand: one threadgroup
each, on blank arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import mlx.core as mx

from qwen3_mlx.metal import launch
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import text_digest

FEW, MOST = 1 << 16, 1 << 23
"""In bytes: inputs up to `FEW` are passed as they are, such as indices; longer ones are replaced by
zeros of at most `MOST`, which is more than the rows that one threadgroup reads."""

COMPILED: set[str] = set()
"""Sources compiled here in this process, by `variants.text_digest`."""

WHOLE = ("attend", "combine", "gather_matmul")
"""Kernels that read their arrays' shapes, or distant elements: their inputs keep their size."""


def settle(launches: Iterable[Launch]) -> None:
    """Evaluate the short inputs of `launches`: lazy arrays belong to the thread that made them."""
    mx.eval([x for one in launches for x in one.inputs.values() if x.nbytes <= FEW])


def one_group(given: Launch) -> Launch:
    """`given` reduced to one threadgroup, with blank arrays of this thread as its long inputs."""
    made: dict[int, mx.array] = {}  # an array given twice stays one: the source names it once

    def blank(array: mx.array) -> mx.array:
        if array.nbytes <= FEW:
            return array
        most = array.size if given.kernel in WHOLE else min(array.size, MOST // array.itemsize)
        shape = array.shape if most == array.size else (most,)
        return made.setdefault(id(array), mx.zeros(shape, array.dtype))

    inputs = {name: blank(array) for name, array in given.inputs.items()}
    return replace(given, inputs=inputs, grid=given.threadgroup)


def compile_ahead(launches: Iterable[Launch], given_up: Callable[[], bool] = lambda: False) -> int:
    """Compile `launches`, one after the other; returns how many were compiled.

    given_up: checked before each. A failure ends the loop without an error: the step that needs the
    kernel will fall back to MLX's operations.
    """
    done = 0
    for one in launches:
        if given_up():
            break
        try:
            mx.eval(launch.run(one_group(one)))
        except Exception:
            break
        COMPILED.add(text_digest(one))
        done += 1
    return done
