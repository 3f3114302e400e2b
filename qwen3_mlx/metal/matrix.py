"""Shared by the matrix kernels' wrappers: packed matrices, template constants and limits."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Constant, Size

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
GROUPS = (32, 64, 128)

FEWEST = 8
"""Fewest elements of an array that a kernel reads: MLX passes smaller ones in Metal's `constant`
address space, but the kernels' functions take `device` pointers."""

TILE = 4096
"""Elements of x in threadgroup memory at a time: 16 KiB, half of Metal's limit."""

IN_FLIGHT = 4
"""Loads of 16 bytes that a lane has in flight to hide latency. More of them cost registers, and so
simdgroups: on an H100 the matrices of 8B are fastest with this many."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix ``[..., N, K]`` as in checkpoints: packed in MLX's affine mode, or plain.

    ``weight [..., N, K · bits / 32]`` uint32 with ``scales, biases [..., N, K / group]``, or,
    with bits 0, ``weight [..., N, K]`` in the model's dtype.
    """

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    bits: int = 0
    group: int = 0

    @property
    def rows(self) -> int:
        """The number of rows, N."""
        return self.weight.shape[-2]

    @property
    def columns(self) -> int:
        """The number of columns, K; of unpacked elements."""
        return self.weight.shape[-1] * (32 // self.bits if self.bits else 1)

    def dequantized(self) -> mx.array:
        """The matrix ``[..., N, K]`` in float32, as the references use it."""
        if not self.bits:
            return self.weight.astype(mx.float32)
        assert self.scales is not None and self.biases is not None
        scales, biases = self.scales.astype(mx.float32), self.biases.astype(mx.float32)
        return mx.dequantize(self.weight, scales, biases, self.group, self.bits)

    def inputs(self, prefix: str, suffix: str, unused: mx.array) -> dict[str, mx.array]:
        """Weight, scales and biases as kernel inputs ``{prefix}w{suffix}``, ``…s…``, ``…b…``.

        unused: stands in for the scales and biases of a plain matrix.
        """
        parts = (self.weight, self.scales, self.biases)
        named = zip("wsb", parts, strict=True)
        return {
            f"{prefix}{letter}{suffix}": unused if part is None else part for letter, part in named
        }

    def constants(self, dtype: mx.Dtype) -> dict[str, Constant]:
        """The constants ``T``, ``BITS`` (of a plain matrix the bits of `dtype`) and ``GROUP``."""
        return {"T": dtype, "BITS": self.bits or dtype.size * 8, "GROUP": self.group}

    def pieces(self, columns: int, dtype: mx.Dtype) -> int:
        """The number of 16-byte pieces that hold `columns` of its elements."""
        return columns * (self.bits or dtype.size * 8) // 128


def float_bits(value: float) -> int:
    """The bits of a float32 as an integer, because template constants can't be floats."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return int(bits)


def unsupported_matrices(matrices: list[Matrix], dtype: mx.Dtype) -> str | None:
    """Why the kernels can't multiply these matrices with activations of `dtype`, or None."""
    first = matrices[0]
    if dtype not in FLOATS:
        return f"activations are {dtype}"
    for matrix in matrices:
        if (matrix.bits, matrix.group) != (first.bits, first.group):
            return "the matrices are packed differently"
        if matrix.bits not in (0, 4, 8):
            return f"{matrix.bits} bits: expected 4, 8 or none"
        if matrix.bits and matrix.group not in GROUPS:
            return f"groups of {matrix.group}: expected 32, 64 or 128"
        if matrix.bits and matrix.biases is None:
            return "not packed in the affine mode"
        held = matrix.weight if matrix.scales is None else matrix.scales
        if held.dtype != dtype:
            return f"weights are {held.dtype}, activations {dtype}"
        if matrix.columns * (matrix.bits or dtype.size * 8) % 128:
            return f"rows of {matrix.columns} weights: expected whole pieces of 16 bytes"
        if min(held.size, matrix.columns) < FEWEST:
            return f"a matrix of {matrix.rows} x {matrix.columns}: too small for the kernels"
    return None


def rows_per_simdgroup(wanted: int, *rows: int) -> int:
    """Rows per simdgroup: the greatest common divisor of `wanted` and all of `rows` but zeros."""
    return math.gcd(wanted, *(n for n in rows if n))


def loads_in_flight(streams: int, pieces: int, most: int = IN_FLIGHT) -> int:
    """16-byte pieces of each of `streams` rows that a lane loads ahead, from a tile of `pieces`."""
    return max(1, min(most // streams, -(-pieces // SIMD)))


def staging(
    tile: int, streams: int, matrix: Matrix, dtype: mx.Dtype, most: int = IN_FLIGHT
) -> dict[str, Constant]:
    """Constants of a source that stages `tile` elements while a lane reads `streams` rows."""
    return {"TILE": tile, "AHEAD": loads_in_flight(streams, matrix.pieces(tile, dtype), most)}


def launch_grid(rows: int, each: int, simds: int, second: int = 1) -> tuple[Size, Size]:
    """Grid and threadgroup in threads for `rows` rows, `each` per simdgroup.

    second: the grid's height.
    """
    groups = -(-rows // (each * simds))
    return (groups * simds * SIMD, second, 1), (simds * SIMD, 1, 1)
