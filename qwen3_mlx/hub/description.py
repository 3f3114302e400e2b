"""What can be known of a model on the hub without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tensor:
    """A remote tensor: type as safetensors spells it, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Description:
    """What can be known of a model without its weights."""

    where: str
    config: dict[str, Any]
    tensors: dict[str, Any] | None
    """Each tensor's dtype, shape and nbytes by name; None where there are no weights to ask."""
