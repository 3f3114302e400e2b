"""MLX's own packed weights: ``weight`` uint32, ``scales`` and, in affine mode, ``biases``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import read_rows
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.quantization import Quantization, QuantSpec
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Reader, Tensors


def part(tensors: Tensors, path: str, quantization: Quantization) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    weight, scales = tensors.get(f"{path}.weight"), tensors.get(f"{path}.scales")
    if weight is None:
        return None
    spec = quantization.spec(path)
    if scales is None or spec is None:
        return PlainPart(weight)
    biases = tensors.get(f"{path}.biases")
    columns = weight.shape[-1] * 32 // spec.bits
    lead = weight.shape[:-1]
    groups = (*lead, columns // spec.group_size)
    affine = spec.mode == "affine"
    if weight.dtype != "U32" or scales.shape != groups or affine != (biases is not None):
        raise CheckpointError(
            f"{path} is not packed as config.json says",
            got=f"weight {weight.dtype} {list(weight.shape)}, scales {list(scales.shape)}",
            expected=f"scales {list(groups)} for {spec.bits} bits in groups of {spec.group_size}",
        )
    return MlxPart(weight, scales, biases, spec)


@dataclass(frozen=True, slots=True)
class MlxPart:
    """One packed matrix, or a stack of experts taken as one tall matrix."""

    weight: TensorInfo
    scales: TensorInfo
    biases: TensorInfo | None
    spec: QuantSpec

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (experts times outputs) and columns of the dense matrix."""
        packed = self.weight.shape
        return math.prod(packed[:-1]), packed[-1] * 32 // self.spec.bits

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Weights, scales and, in affine mode, biases."""
        return tuple(t for t in (self.weight, self.scales, self.biases) if t)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Unpack rows with MLX, in float32, rounded once."""

        def read(start: int, stop: int) -> mx.array:
            packed = [read_rows(info, start, stop) for info in self.tensors]
            return unpack(packed, self.spec).astype(dtype)

        return read


def unpack(packed: Sequence[mx.array], spec: QuantSpec) -> mx.array:
    """Weights, scales and, in affine mode, biases to dense float32."""
    weight, scales = packed[:2]
    biases = None
    if spec.mode == "affine":
        scales, biases = scales.astype(mx.float32), packed[2].astype(mx.float32)
    return mx.dequantize(
        weight,
        scales,
        biases,
        group_size=spec.group_size,
        bits=spec.bits,
        mode=spec.mode,
        dtype=mx.float32,
    )
