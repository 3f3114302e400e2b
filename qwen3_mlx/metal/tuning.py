"""How the kernels are cut, by backend: rows, simdgroups, and the lanes and heads of attention.

The CUDA columns were chosen on an H200 and an H100 (docs/log.md). The Metal ones are unmeasured:
they follow MLX's own matrix-vector kernels (4 rows, 2 simdgroups, nothing staged) and the registers
that M1 and M2 have (`benchmarks.registers`, docs/kernels.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import qwen3_mlx.device.backend as backend

Cut = tuple[int, int]
"""Rows a simdgroup makes, and simdgroups of a threadgroup."""

Cuts = Mapping[str, Cut]
"""By kernel, those that a machine found faster than the ones below."""

FURTHER: Mapping[str, tuple[Cut, ...]] = {
    "matvec": ((8, 2), (2, 4), (1, 8)),
    "gate_up": ((4, 2), (2, 4), (1, 8)),
    "down": ((8, 2), (2, 4), (1, 8)),
}
"""What `doctor --prove` tries besides, on Metal, where nobody has measured any: many rows won on
others' M5 and M3 Ultra (mlx#3753), many simdgroups hide what memory takes."""

_asked: ContextVar[Cuts] = ContextVar("cuts")


@contextmanager
def cut_by(cuts: Cuts) -> Iterator[None]:
    """Within, in this thread, launches of the kernels in `cuts` are cut so."""
    token = _asked.set({**_asked.get({}), **cuts})
    try:
        yield
    finally:
        _asked.reset(token)


class AttendCut(NamedTuple):
    """How `attend` is shared out."""

    lanes: int
    """That share a key."""
    queries: int
    """Heads of a threadgroup that read it together."""
    simds: int
    """Simdgroups of a threadgroup."""


def staged() -> bool:
    """Whether the matrix kernels put activations into threadgroup memory first.

    On Apple's GPUs that memory is what limits how many simdgroups a core holds: 17 KB a threadgroup
    of two leave 6 of 24. There the cache serves x, as in MLX's own kernels.
    """
    return backend.device() == "cuda"


def matvec(rows: int, columns: int) -> Cut:
    """For `rows` rows of `columns` columns."""
    if (asked := _asked.get({}).get("matvec")) is not None:
        return asked
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (4, 2)


def gate_up(rows: int, columns: int) -> Cut:
    """For `rows` outputs, each of two rows of `columns` columns."""
    if (asked := _asked.get({}).get("gate_up")) is not None:
        return asked
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (2, 2)


def down(rows: int, columns: int) -> Cut:
    """For `rows` outputs of `columns` columns, all experts of a token together."""
    if (asked := _asked.get({}).get("down")) is not None:
        return asked
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (4, 2)


def skinny(columns: int, gated: bool) -> Cut:
    """For a few rows through `columns` columns: tiles of 8 that a simdgroup makes, and simdgroups.

    Unmeasured. More tiles read x less often, fewer give a small matrix enough threadgroups.
    """
    return (4 if gated or columns >= 4096 else 2, 8)


def attend(group: int, dim: int, row_bytes: int, split: bool) -> AttendCut:
    """For `group` query heads to a key head of `dim` elements, `row_bytes` of them.

    Heads read a long past together, and share out a short one. CUDA's threads take 95 registers for
    rows of 256 bytes, 146 for 512, and 213 where four heads read together; M1 and M2 have 128, and
    take no threadgroup of 512 threads from 104 on.
    """
    queries = math.gcd(group, 4 if split and dim <= 128 else 1)
    if backend.device() == "cuda":
        return AttendCut(8, queries, 16 if not split and row_bytes <= 256 else 8)
    return AttendCut(min(32 if split else 16, dim), queries, 8)


def choosing() -> bool:
    """Whether `gate_up` makes the router's choice itself, instead of a launch of its own.

    On CUDA a step is bound by what the host does for each launch (10 µs), so one less is worth the
    choice being made in every threadgroup. On Metal a launch costs the host about 1 µs, and up to
    12 where it waits for the one before; threadgroups are many and small. That is unmeasured.
    """
    return backend.device() == "cuda"
