"""Which kernels a proof's children try, and which children run side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import qwen3_mlx.device.backend as backend

from qwen3_mlx.metal.variants import Signature
from qwen3_mlx.metal.variants_rows import skinny_runs

T = TypeVar("T")

ROWS = ("attend_rows", "skinny")
"""Kernels of several rows, which one-token steps don't need: what is wrong with them, or takes too
long, leaves those their kernels."""


def shares(signatures: Sequence[Signature], rows: bool = True) -> list[list[str]]:
    """The kernels that each child tries.

    CUDA's compiler takes two seconds a text, in each process anew: there a kernel has a child of
    its own as far as the processor has cores. The layer, which needs all, is in the first; within
    a child it comes last, or its fault would hide whose it is. Those of several `rows` have a
    child of their own, begun last.
    """
    names = ["step", "matvec", "gate_up", *sorted({one.attention for one in signatures})]
    if any(one.experts for one in signatures):
        names += ["down", "route", "gather_matmul"]
    cores = (os.cpu_count() or 1) // 2 if backend.device() == "cuda" else 1
    children = max(1, min(len(names), cores))
    parts = [sorted(names[i::children], key="step".__eq__) for i in range(children)]
    several = [name for name in ROWS if name != "skinny" or all(map(skinny_runs, signatures))]
    if not rows:
        return parts
    return [*parts, *([name] for name in several)] if cores > 1 else [*parts, several]


def together(parts: list[T]) -> list[list[T]]:
    """Those that run side by side: on Metal a fault in one may take down the others' work."""
    return [parts] if backend.device() == "cuda" else [[part] for part in parts]


def rows_only(names: Sequence[str]) -> bool:
    """Whether all of these kernels are of several rows."""
    return all(name in ROWS for name in names)
