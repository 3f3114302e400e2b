"""Runs a compiled step a few layers at a time: the device begins while Python builds the rest.

A step that waits for the token before it leaves the device idle until its work arrives. On an H200
Python and MLX need about as long for a layer of 8B as the GPU does, so what isn't handed over until
the whole step is built costs half as much again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import mlx.core as mx

PART = 6
"""Most layers of a part: their launches fit into one of MLX's graphs on CUDA (`device.backend`)."""

Begin = Callable[..., tuple[mx.array, ...]]
"""(tokens, given…) -> the embedded rows, their rotations, and what else the caller wants."""

Through = Callable[..., tuple[mx.array, list[mx.array]]]
"""(layers, rows, rotations, each layer's cache, given…) -> the rows behind them, and the tails."""


class StepParts:
    """A step of `layers` layers; the arrays given to a call decide which trace runs."""

    def __init__(self, begin: Begin, through: Through, layers: int, eager: bool = True) -> None:
        """eager: start to evaluate each part before the next is built."""
        self._begin: Begin = mx.compile(begin)
        self._parts = [(span, mx.compile(partial(through, span))) for span in spans(layers)]
        self._eager = eager

    def __call__(
        self, tokens: mx.array, pasts: Sequence[Any], *given: mx.array
    ) -> tuple[mx.array, list[mx.array], tuple[mx.array, ...]]:
        """What the last layers return, all tails, and what `begin` returned besides.

        pasts: the arrays of each layer's cache. The last part is left to the caller to evaluate.
        """
        x, turns, *rest = self._begin(tokens, *given)
        tails: list[mx.array] = []
        for span, part in self._parts:
            if tails and self._eager:
                mx.async_eval(x)
            x, more = part(x, turns, pasts[span], *given)
            tails += more
        return x, tails, tuple(rest)


def spans(layers: int) -> list[slice]:
    """Divide `layers` into parts of at most `PART`, as equal as possible."""
    count = -(-layers // PART)
    ends = [layers * index // count for index in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]
