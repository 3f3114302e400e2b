"""One case of a proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

Arrays = list[mx.array]


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel's call on `x`, its float32 reference, and the same by MLX's operations."""

    kernel: str
    """The kernel's name in `dispatch`; ``step`` for a whole layer."""
    name: str
    x: mx.array
    run: Callable[[mx.array], Arrays]
    reference: Callable[[mx.array], Arrays]
    stock: Callable[[mx.array], Arrays]
    roundings: int = field(default=1, kw_only=True)
    """How often values are rounded to the dtype; more than 1 if intermediate ones are too."""
