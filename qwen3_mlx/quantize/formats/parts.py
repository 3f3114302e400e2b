"""A matrix in pieces that can be read row by row, whatever they are packed as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import TensorInfo
from qwen3_mlx.checkpoint.raw import read_rows
from qwen3_mlx.errors import CheckpointError

Reader = Callable[[int, int], mx.array]
"""``read(start, stop)`` gives these rows dense, ``[stop - start, columns]``, unevaluated or not."""

Tensors = dict[str, TensorInfo]


class Part(Protocol):
    """A matrix ``[rows, columns]`` of a checkpoint."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the dense matrix (leading dimensions folded into the rows)."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """What it is stored in."""

    def open(self, dtype: mx.Dtype) -> Reader:
        """A reader whose rows have `dtype`. What it holds in memory is freed with it."""


@dataclass(frozen=True, slots=True)
class PlainPart:
    """Floats, stored as they are."""

    info: TensorInfo

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; a vector is one row."""
        width = self.info.shape[-1]
        rows = 1
        for n in self.info.shape[:-1]:
            rows *= n
        return rows, width

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
    return packed, zeros, scales
