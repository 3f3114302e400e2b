"""Divides a proof: the kernels of each child process, and the children that run in parallel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import qwen3_mlx.device.backend as backend

from qwen3_mlx.metal.variants import Signature
from qwen3_mlx.metal.variants_rows import skinny_runs

T = TypeVar("T")

ROWS = ("attend_rows", "skinny")
"""Kernels for several rows. One-token steps don't need them, so their errors and timeouts don't
disable the other kernels."""


def shares(signatures: Sequence[Signature], rows: bool = True) -> list[list[str]]:
    """The names of the kernels that each child tries.

    CUDA's compiler takes two seconds a source, again in every process: there, each kernel has its
    own child as far as half the processor's cores suffice. The whole layer (``step``) is in the
    first child and comes last in it, or its fault would hide which kernel is wrong. With `rows`,
    the kernels of several rows have their own children, started last.
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
    """Groups of `parts` that run in parallel: all on CUDA. On Metal each runs alone: a fault in one
    process may abort the work of others.
    """
    return [parts] if backend.device() == "cuda" else [[part] for part in parts]


def rows_only(names: Sequence[str]) -> bool:
    """Whether all these kernels are for several rows."""
    return all(name in ROWS for name in names)
