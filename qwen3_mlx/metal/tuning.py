"""The kernels' cuts by backend: rows, simdgroups, and the lanes and heads of attention.

The CUDA values were chosen on an H200 and an H100 (docs/log.md). The Metal values are unmeasured:
they follow MLX's own matrix-vector kernels (4 rows, 2 simdgroups, nothing staged) and the number of
registers of M1 and M2 (`benchmarks.registers`, docs/kernels.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import qwen3_mlx.device.backend as backend

Cut = tuple[int, int]
"""Rows per simdgroup, and simdgroups per threadgroup."""

Cuts = Mapping[str, Cut]
"""By kernel, the cuts that a machine found faster than the defaults below."""

FURTHER: Mapping[str, tuple[Cut, ...]] = {
    "matvec": ((8, 2), (2, 4), (1, 8)),
    "gate_up": ((4, 2), (2, 4), (1, 8)),
    "down": ((8, 2), (2, 4), (1, 8)),
}
"""Further cuts that `doctor --prove` tries on Metal, where the defaults are unmeasured: many rows
were faster on an M5 and an M3 Ultra (mlx#3753), many simdgroups hide the memory's latency."""

MULTIPROCESSORS = 128
"""Threadgroups of `attend` that a data centre's GPU runs at once: an H100 or H200 has 132."""

_asked: ContextVar[Cuts] = ContextVar("cuts")


@contextmanager
def cut_by(cuts: Cuts) -> Iterator[None]:
    """Use `cuts` for the launches of these kernels within the block, in this thread only."""
    token = _asked.set({**_asked.get({}), **cuts})
    try:
        yield
    finally:
        _asked.reset(token)


class AttendCut(NamedTuple):
    """How `attend` distributes its work."""

    lanes: int
    """Lanes that share a key."""
    queries: int
    """Heads of a threadgroup that share one read of a key."""
    simds: int
    """Simdgroups per threadgroup."""


class RowsCut(NamedTuple):
    """How `skinny` distributes its work."""

    tiles: int
    """Tiles of 16 rows per threadgroup."""
    simds: int
    """Simdgroups per threadgroup, which share the columns of its tiles."""
    ahead: int
    """Chunks of columns that a simdgroup has under way, which cost registers."""


def staged() -> bool:
    """Whether the matrix kernels first copy the activations into threadgroup memory.

    On Apple's GPUs that memory limits the simdgroups of a core: 17 KB per threadgroup of two leave
    6 of 24. There x is read through the cache, as in MLX's own kernels.
    """
    return backend.device() == "cuda"


def matvec(rows: int, columns: int) -> Cut:
    """The cut for `rows` rows of `columns` columns."""
    if (asked := _asked.get({}).get("matvec")) is not None:
        return asked
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (4, 2)


def gate_up(rows: int, columns: int) -> Cut:
    """The cut for `rows` outputs, each from two rows of `columns` columns."""
    if (asked := _asked.get({}).get("gate_up")) is not None:
        return asked
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (2, 2)


def down(rows: int, columns: int) -> Cut:
    """The cut for `rows` outputs of `columns` columns, those of all experts of a token together."""
    if (asked := _asked.get({}).get("down")) is not None:
        return asked
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (4, 2)


def skinny(rows: int, columns: int, tokens: int, gated: bool, experts: bool) -> RowsCut:
    """The cut for a few tokens through `rows` rows of `columns` columns.

    Chosen on an H200 among fourteen, by the matrices of 8B and 30B-A3B. Where there are rows
    enough, four tiles share one read of the activations; else simdgroups share out the columns,
    since a GPU wants many of them.
    """
    if gated:
        return RowsCut(4, 4, 1 if experts or tokens > 8 else 2)
    if rows > 32768:
        return RowsCut(4, 4, 1)
    if rows > 4096:
        return RowsCut(1 if tokens <= 8 else 2, 8, 1)
    return RowsCut(1, 16, 1)


def attend(group: int, dim: int, row_bytes: int, sharing: int) -> AttendCut:
    """The cut for `group` query heads per key head of `dim` elements, which take `row_bytes`.

    sharing: heads that share one read of a past, at most; 1 divides a past among more simdgroups.
    A CUDA thread needs 95 registers for rows of 256 bytes, 146 for 512, and 213 if four heads read
    together; M1 and M2 have 128, and allow no threadgroup of 512 threads from 104 registers on.
    """
    queries = math.gcd(group, sharing if dim <= 128 else 1)
    if backend.device() == "cuda":
        return AttendCut(8, queries, 16 if sharing == 1 and row_bytes <= 256 else 8)
    return AttendCut(min(32 if sharing > 1 else 16, dim), queries, 8)


def sharing(heads: int, sequences: int) -> int:
    """Heads that share one read of the pasts of `sequences` sequences with `heads` heads each.

    On CUDA the fewest for which all threadgroups run at once, one per multiprocessor (H200, 132 of
    them; 32 heads, 512 tokens): of 1, 2, 4 heads 9.6, 12.9, 16.6 us for four sequences, 17.7, 13.2,
    16.7 for eight, 35, -, 17.9 for sixteen. Metal: a guess.
    """
    if backend.device() == "cuda":
        return next((n for n in (1, 2) if heads * sequences <= n * MULTIPROCESSORS), 4)
    return 4 if sequences >= 4 else 1


def choosing() -> bool:
    """Whether `gate_up` also chooses the experts, instead of a separate launch.

    On CUDA the host's 10 µs per launch bound a step, so saving a launch pays for choosing again in
    every threadgroup. On Metal a launch costs the host about 1 µs, or up to 12 µs if it waits for
    the one before, and the threadgroups are many and small. That is unmeasured.
    """
    return backend.device() == "cuda"
