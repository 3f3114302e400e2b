"""The description of a model on the hub, made without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tensor:
    """A remote tensor; `dtype` is safetensors' name."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Description:
    """A model's place, its parsed config.json, and its tensors' headers."""

    where: str
    config: dict[str, Any]
    tensors: dict[str, Any] | None
    """The tensors by name, each with dtype, shape and nbytes; None if there are no headers."""
