"""MLX's own packed weights: ``weight`` uint32, ``scales`` and, in affine mode, ``biases``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import qwen3_mlx.device.backend as backend

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
    """A packed matrix, or experts stacked to one tall matrix."""

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
        """Unpack rows with MLX in float32, and round once."""

        def read(start: int, stop: int) -> mx.array:
            packed = [read_rows(info, start, stop) for info in self.tensors]
            return unpack(packed, self.spec).astype(dtype)

        return read


def unpack(packed: Sequence[mx.array], spec: QuantSpec) -> mx.array:
    """Unpack weights, scales and, in affine mode, biases to dense float32."""
    weight, scales = packed[:2]
    biases = None
    if spec.mode == "affine" and spec.bits in (3, 5, 6) and backend.device() == "cpu":
        return _unpack_odd_bits(weight, scales, packed[2], spec)
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


def _unpack_odd_bits(
    weight: mx.array, scales: mx.array, biases: mx.array, spec: QuantSpec
) -> mx.array:
    """As `mx.dequantize`, which takes five times as long for these bits on a CPU.

    Eight codes are packed in `bits` bytes, lowest first, so a code spans one or two bytes.
    """
    bits, lines = spec.bits, weight.view(mx.uint8).reshape(-1, spec.bits)
    codes = []
    for n in range(8):
        byte, shift = divmod(n * bits, 8)
        code = lines[:, byte] >> shift
        if shift + bits > 8:
            code = code | (lines[:, byte + 1] << (8 - shift))
        codes.append(code & (2**bits - 1))
    groups = mx.stack(codes, axis=-1).reshape(-1, spec.group_size).astype(mx.float32)
    scaled = groups * scales.astype(mx.float32).reshape(-1, 1)
    dense = scaled + biases.astype(mx.float32).reshape(-1, 1)
    return dense.reshape(*weight.shape[:-1], -1)
