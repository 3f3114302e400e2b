"""FP8 and INT8 codes with a scale per tensor, row or block.

Tools name the scale ``weight_scale_inv`` (Qwen, DeepSeek: quantizing divided by it) or
``weight_scale`` (vLLM, compressed-tensors, transformers); the weight is code x scale in both,
computed in float32 and rounded once. Blocks at the right and lower edge may be ragged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import read_rows, read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats.parts import Reader, require_floats

CODES = ("F8_E4M3", "I8")


@dataclass(frozen=True, slots=True)
class ScaledPart:
    """One matrix of codes, and scales ``[ceil(rows / high), ceil(columns / wide)]``."""

    weight: TensorInfo
    scale: TensorInfo
    block: tuple[int, int]
    divisor: float = 1.0
    """Divides the scales: 127 for bitsandbytes, whose scale is a row's maximum."""
    zeros: TensorInfo | None = None
    """Zero points, subtracted from integer codes; of the scales' shape."""

    @property
    def shape(self) -> tuple[int, int]:
        """As stored."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Codes, scales and, if there are any, zeros."""
        return tuple(info for info in (self.weight, self.scale, self.zeros) if info)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read codes row by row; the scales stay in memory."""
        rows, columns = self.shape
        high, wide = self.block
        scales = self._grid(self.scale) / self.divisor
        zeros = None if self.zeros is None else self._grid(self.zeros)

        def spread(grid: mx.array, start: int, stop: int) -> mx.array:
            first = start // high
            lines = grid[first : -(-stop // high)]
            across = lines if wide == columns else mx.repeat(lines, wide, axis=1)[:, :columns]
            return across if high == rows else across[mx.arange(start, stop) // high - first]

        def read(start: int, stop: int) -> mx.array:
            codes = read_rows(self.weight, start, stop)
            floating = self.weight.dtype == "F8_E4M3"
            values = mx.from_fp8(codes, mx.float32) if floating else codes.astype(mx.float32)
            if zeros is not None:
                values = values - spread(zeros, start, stop)
            return (values * spread(scales, start, stop)).astype(dtype)

        return read

    def _grid(self, info: TensorInfo) -> mx.array:
        high, wide = self.block
        shape = -(-self.shape[0] // high), -(-self.shape[1] // wide)
        return read_tensor(info).astype(mx.float32).reshape(shape)


def scaled_part(
    weight: TensorInfo,
    scale: TensorInfo | None,
    block: tuple[int, int] | None = None,
    zeros: TensorInfo | None = None,
) -> ScaledPart:
    """The matrix; `block` is the block size in config.json, None if it has none.

    Raises `CheckpointError` unless the scales are one per tensor, row, block or group of a row.
    """
    path = weight.name.rpartition(".")[0]
    if scale is None or len(weight.shape) != 2:
        got = "nothing" if scale is None else f"a weight {list(weight.shape)}"
        raise CheckpointError(f"{path}: the scale of its {weight.dtype} codes", got=got)
    require_floats(scale)
    if zeros is not None and zeros.shape != scale.shape:
        expected = f"{list(scale.shape)}, as its scales"
        raise CheckpointError(zeros.name, got=list(zeros.shape), expected=expected)
    rows, columns = weight.shape
    if block is not None and scale.shape == _blocks(weight, block):
        return ScaledPart(weight, scale, block, zeros=zeros)
    if math.prod(scale.shape) == 1:
        return ScaledPart(weight, scale, (rows, columns), zeros=zeros)
    if scale.shape in ((rows,), (rows, 1)):
        return ScaledPart(weight, scale, (1, columns), zeros=zeros)
    groups = scale.shape[-1]
    if block is None and scale.shape == (rows, groups) and groups and columns % groups == 0:
        return ScaledPart(weight, scale, (1, columns // groups), zeros=zeros)
    expected = "[1], [rows]"
    if block is not None:
        expected += f" or {list(_blocks(weight, block))}, a scale for each {block[0]} x {block[1]}"
    raise CheckpointError(scale.name, got=list(scale.shape), expected=expected)


def _blocks(weight: TensorInfo, block: tuple[int, int]) -> tuple[int, int]:
    return -(-weight.shape[0] // block[0]), -(-weight.shape[1] // block[1])
