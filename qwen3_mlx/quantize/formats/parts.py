"""The interface of a stored matrix that is read row by row, and helpers for packed formats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import FLOATS, read_rows, read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.errors import CheckpointError

Reader = Callable[[int, int], mx.array]
"""``read(start, stop)`` returns dense rows ``[stop - start, columns]``, perhaps lazy."""

Tensors = dict[str, TensorInfo]


class Part(Protocol):
    """A matrix ``[rows, columns]`` of a checkpoint."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the dense matrix (leading dimensions folded into the rows)."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The stored tensors."""

    def open(self, dtype: mx.Dtype) -> Reader:
        """A reader whose rows have `dtype`; its memory is freed with it."""


@dataclass(frozen=True, slots=True)
class PlainPart:
    """A matrix stored as floats."""

    info: TensorInfo

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; a vector is one row."""
        *lead, columns = self.info.shape
        return math.prod(lead), columns

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensor itself."""
        return (self.info,)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read rows and cast them."""

        def read(start: int, stop: int) -> mx.array:
            return read_rows(self.info, start, stop).astype(dtype)

        return read


def plain_or_packed(
    tensors: Tensors, path: str
) -> PlainPart | tuple[TensorInfo, TensorInfo, TensorInfo] | None:
    """The float matrix at `path`, or its int4 packing (qweight, qzeros, scales), or None.

    Raises `CheckpointError` for half a packing.
    """
    if weight := tensors.get(f"{path}.weight"):
        return PlainPart(weight)
    if (packed := tensors.get(f"{path}.qweight")) is None:
        return None
    zeros, scales = tensors.get(f"{path}.qzeros"), tensors.get(f"{path}.scales")
    if zeros is None or scales is None:
        raise CheckpointError(f"{path} lacks qzeros or scales", hint="fetch the model again")
    require_floats(scales)
    return packed, zeros, scales


def require_floats(*scales: TensorInfo) -> None:
    """Raise `CheckpointError` for scales that aren't floats, such as exponents (E8M0)."""
    for info in scales:
        if info.dtype not in FLOATS:
            raise CheckpointError(info.name, got=info.dtype, expected=", ".join(FLOATS))


def unpack_words(packed: mx.array, bits: int) -> mx.array:
    """``[n, m]`` int32 to ``[n, m * 32 // bits]`` int32, lowest bits first.

    With 3 bits a value may span two words; 32 values fill three words.
    """
    words = packed.view(mx.uint32)
    if bits == 3:
        bit = (words[..., None] >> mx.arange(32, dtype=mx.uint32)) & 1
        threes = bit.reshape(words.shape[0], -1, 3)
        return (threes << mx.arange(3, dtype=mx.uint32)).sum(-1).astype(mx.int32)
    shifts = mx.arange(0, 32, bits, dtype=mx.uint32)
    values = (words[..., None] >> shifts) & (2**bits - 1)
    return values.astype(mx.int32).reshape(packed.shape[0], -1)


def unpack_columns(packed: mx.array, bits: int) -> mx.array:
    """``[m, n]`` int32 to ``[m * 32 // bits, n]``: as `unpack_words`, along columns."""
    if bits == 3:
        return unpack_words(packed.T, bits).T
    shifts = mx.arange(0, 32, bits, dtype=mx.uint32)[:, None]
    values = (packed.view(mx.uint32)[:, None, :] >> shifts) & (2**bits - 1)
    return values.astype(mx.int32).reshape(-1, packed.shape[1])


def group_index(info: TensorInfo | None, columns: int, groups: int) -> mx.array:
    """The group of each column, ``[columns]``. Raises `CheckpointError` if out of range."""
    if info is None:
        return mx.arange(columns) // (columns // groups)
    index = read_tensor(info)
    least, most = int(index.min()), int(index.max())
    if least < 0 or most >= groups:
        raise CheckpointError(info.name, got=f"{least} to {most}", expected=f"0 to {groups - 1}")
    return index
