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
from qwen3_mlx.metal.variants import text_digest

FEW, MOST = 1 << 16, 1 << 23
"""Bytes of an input up to which it is computed as it is: indices are; and more than the rows that
one threadgroup reads, to which a longer one is cut."""

COMPILED: set[str] = set()
"""Texts that were compiled here in this process, by `variants.text_digest`."""

WHOLE = ("attend", "combine", "gather_matmul")
"""Kernels that look at their arrays' shapes, or read them far apart: those are not cut."""


def settle(launches: Iterable[Launch]) -> None:
    """Compute the short inputs of `launches`: what is lazy belongs to the thread that made it."""
    mx.eval([x for one in launches for x in one.inputs.values() if x.nbytes <= FEW])


def one_group(given: Launch) -> Launch:
    """The first threadgroup of `given`, its long inputs blanks of this thread."""
    made: dict[int, mx.array] = {}  # an array given twice stays one: the text names it once

    def blank(array: mx.array) -> mx.array:
        if array.nbytes <= FEW:
            return array
        most = array.size if given.kernel in WHOLE else min(array.size, MOST // array.itemsize)
        shape = array.shape if most == array.size else (most,)
        return made.setdefault(id(array), mx.zeros(shape, array.dtype))

    inputs = {name: blank(array) for name, array in given.inputs.items()}
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
        COMPILED.add(text_digest(one))
        done += 1
    return done
