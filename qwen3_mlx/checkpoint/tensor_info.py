"""Describes a tensor of a checkpoint before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwen3_mlx.gguf.header import GgufTensor


@dataclass(frozen=True, slots=True)
class Part:
    """A machine's part of a tensor: it begins at `start` of an axis of length `of`."""

    axis: int
    start: int
    of: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A stored tensor; `dtype` is the file format's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int
    """The first byte's position in the file."""
    part_of_tensor: bool = False
    """Whether this is only some rows of the stored tensor `name`."""
    part: Part | None = None
    """If set, `shape` and `nbytes` are this part's, `offset` is the whole tensor's."""
    made_from: GgufTensor | None = None
    """The GGUF tensor from which this one is computed when it is read."""
