"""Qwen's FP8 releases: ``weight`` in float8_e4m3, one ``weight_scale_inv`` a block of 128 x 128.

The weight is code x scale (the name says "inv" because quantizing divided by it), computed in
float32 and rounded once. Blocks at the right and lower edge may be ragged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import TensorInfo
from qwen3_mlx.checkpoint.raw import read_rows, read_tensor
from qwen3_mlx.errors import CheckpointError, ConfigError
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Reader, Tensors


def check_config(block: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless the quantization is the one this module reads."""
    fmt, size = block.get("fmt", "e4m3"), block.get("weight_block_size")
    sound = isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
    if fmt != "e4m3" or not sound or min(size or [0]) < 1:
        raise ConfigError(
            "config.json: quantization_config (fp8)",
            got=f"fmt {fmt!r}, weight_block_size {size!r}",
            expected="fmt 'e4m3' and weight_block_size [rows, columns], as in Qwen's releases",
        )


def part(tensors: Tensors, path: str, block: Mapping[str, Any]) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    weight = tensors.get(f"{path}.weight")
    if weight is None:
        return None
    if weight.dtype != "F8_E4M3":
        return PlainPart(weight)
    scale = tensors.get(f"{path}.weight_scale_inv")
    high, wide = block["weight_block_size"]
    expected = (-(-weight.shape[0] // high), -(-weight.shape[-1] // wide))
    if scale is None or len(weight.shape) != 2 or scale.shape != expected:
        raise CheckpointError(
            f"{path}.weight_scale_inv",
            got=list(scale.shape) if scale else "nothing",
            expected=f"{list(expected)}, a scale for each block of {high} x {wide}",
        )
    return Fp8Part(weight, scale, (high, wide))


@dataclass(frozen=True, slots=True)
class Fp8Part:
    """One matrix of FP8 codes and its block scales."""

    weight: TensorInfo
    scale: TensorInfo
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """As stored."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Codes and scales."""
        return self.weight, self.scale

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read codes row by row; the scales (a number for 16,384 weights) stay in memory."""
        high, wide = self.block
        scales = read_tensor(self.scale).astype(mx.float32)
        columns = self.shape[1]

        def read(start: int, stop: int) -> mx.array:
            codes = read_rows(self.weight, start, stop)
            first = start // high
            rows = mx.arange(start, stop) // high - first
            across = mx.repeat(scales[first : -(-stop // high)], wide, axis=1)[:, :columns]
            return (mx.from_fp8(codes, mx.float32) * across[rows]).astype(dtype)

        return read
