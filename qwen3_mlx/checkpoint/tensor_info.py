"""One tensor of a checkpoint, before it is read: what it is, and where its bytes lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwen3_mlx.gguf.header import GgufTensor


@dataclass(frozen=True, slots=True)
class Part:
    """Where a machine's part of a tensor lies: from `start` on, along an axis that has `of`."""

    axis: int
    start: int
    of: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint: its name, type (as the format spells it), shape and place."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int
    """Where its bytes begin, counted from the beginning of the file."""
    part_of_tensor: bool = False
    """Whether it is some rows of the stored tensor `name`, not all of it."""
    part: Part | None = None
    """If only a part is wanted: `shape` and `nbytes` are then the part's, `offset` the whole's."""
    made_from: GgufTensor | None = None
    """The GGUF tensor that it is made from when it is read; its bytes lie nowhere as they are."""
