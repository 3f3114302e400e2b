"""One thing that a proof tries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

Arrays = list[mx.array]


@dataclass(frozen=True, slots=True)
class Case:
    """One call of a kernel on `x`, its float32 reference, and MLX's operations in its place."""

    kernel: str
    """By the name that `dispatch` has for it; ``step`` for a whole layer."""
    name: str
    x: mx.array
    run: Callable[[mx.array], Arrays]
    reference: Callable[[mx.array], Arrays]
    stock: Callable[[mx.array], Arrays]
    roundings: int = field(default=1, kw_only=True)
    """To the dtype on the way, where there are more than at the end."""
