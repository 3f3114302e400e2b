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


CHILDREN_OF_ROWS = {"attend_rows": 4, "skinny": 2}
"""On CUDA, the child processes that divide the cases of a kernel for several rows: eighteen texts
of `attend_rows` take a minute to compile in one."""


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
    return [*parts, *_of_rows(several)] if rows else parts


def parts_of(names: Sequence[str]) -> list[list[str]]:
    """The names that each child tries, of kernels that are asked for by name.

    On CUDA a kernel for several rows has one child: these are tried beside a model that serves.
    """
    if rows_only(names) and backend.device() == "cuda":
        return [[name] for name in names]
    return [list(names)]


def _of_rows(names: Sequence[str]) -> list[list[str]]:
    """The names that each child tries of `names`, kernels for several rows.

    On CUDA ``skinny@2of2`` stands for the second half of the cases; elsewhere one child has all.
    """
    cores = (os.cpu_count() or 1) // 4 if backend.device() == "cuda" else 1
    if cores <= 1:
        return parts_of(names) if names else []
    counts = {name: min(cores, CHILDREN_OF_ROWS[name]) for name in names}
    return [[f"{name}@{n + 1}of{counts[name]}"] for name in names for n in range(counts[name])]


def kernel_of(name: str) -> str:
    """``skinny`` of ``skinny@2of2``."""
    return name.partition("@")[0]


def cases_of(name: str, cases: Sequence[T]) -> Sequence[T]:
    """The cases that ``skinny@2of2`` stands for: neighbours, which often share a text."""
    _, _, share = name.partition("@")
    if not share:
        return cases
    number, children = map(int, share.split("of"))
    return cases[len(cases) * (number - 1) // children : len(cases) * number // children]


def together(parts: list[T]) -> list[list[T]]:
    """Groups of `parts` that run in parallel: all on CUDA. On Metal each runs alone: a fault in one
    process may abort the work of others.
    """
    return [parts] if backend.device() == "cuda" else [[part] for part in parts]


def rows_only(names: Sequence[str]) -> bool:
    """Whether all these kernels are for several rows."""
    return all(kernel_of(name) in ROWS for name in names)
