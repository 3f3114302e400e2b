"""How the matrix kernels are cut: rows a simdgroup, simdgroups a threadgroup, by backend.

The CUDA columns were chosen on an H200 and an H100 (docs/log.md); the Metal ones follow MLX's own
matrix-vector kernels (4 rows, 2 simdgroups) and are unmeasured.
"""

from __future__ import annotations

import qwen3_mlx.device.backend as backend

Cut = tuple[int, int]


def matvec(rows: int, columns: int) -> Cut:
    """For `rows` rows of `columns` columns."""
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (4, 2)


def gate_up(rows: int, columns: int) -> Cut:
    """For `rows` outputs, each of two rows of `columns` columns."""
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (2, 2)


def down(rows: int, columns: int) -> Cut:
    """For `rows` outputs of `columns` columns, all experts of a token together."""
    if backend.device() == "cuda":
        return (1 if rows < 4096 else 2, 8)
    return (4, 2)


def choosing() -> bool:
    """Whether `gate_up` makes the router's choice itself, instead of a launch of its own.

    On CUDA a step is bound by what the host does for each launch (10 µs), so one less is worth the
    choice being made in every threadgroup. On Metal a launch costs about 2 µs, and threadgroups
    are many and small; that is not measured.
    """
    return backend.device() == "cuda"
