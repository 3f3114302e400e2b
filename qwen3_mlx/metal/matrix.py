"""What the matrix kernels share in Python: packed matrices, their constants, their limits."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import mlx.core as mx

from qwen3_mlx.metal.launch import SIMD, Constant, Size

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
GROUPS = (32, 64, 128)

FEWEST = 8
"""Elements of an array that a kernel's functions read. MLX passes a smaller one in Metal's
`constant` space; the functions take pointers of `device`."""

TILE = 4096
"""Elements of x in threadgroup memory at a time: 16 KiB, half of what Metal allows."""

IN_FLIGHT = 4
"""Pieces of 16 bytes that a lane has under way: what a latency is hidden behind. More of them cost
registers, and so simdgroups: on an H100 8B's matrices are fastest with this many."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix ``[..., N, K]`` as checkpoints hold it: packed by MLX's affine mode, or plain.

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
        """N."""
        return self.weight.shape[-2]

    @property
    def columns(self) -> int:
        """K."""
        return self.weight.shape[-1] * (32 // self.bits if self.bits else 1)

    def dequantized(self) -> mx.array:
        """The matrix ``[..., N, K]`` in float32: the truth that references compute with."""
        if not self.bits:
            return self.weight.astype(mx.float32)
        assert self.scales is not None and self.biases is not None
        scales, biases = self.scales.astype(mx.float32), self.biases.astype(mx.float32)
        return mx.dequantize(self.weight, scales, biases, self.group, self.bits)

    def inputs(self, prefix: str, suffix: str, unused: mx.array) -> dict[str, mx.array]:
        """Kernel inputs named ``{prefix}w{suffix}``, ``…s…``, ``…b…``."""
        parts = (self.weight, self.scales, self.biases)
        named = zip("wsb", parts, strict=True)
        return {
            f"{prefix}{letter}{suffix}": unused if part is None else part for letter, part in named
        }

    def constants(self, dtype: mx.Dtype) -> dict[str, Constant]:
        """``T``, ``BITS`` (of a plain matrix its floats') and ``GROUP``."""
        return {"T": dtype, "BITS": self.bits or dtype.size * 8, "GROUP": self.group}

    def pieces(self, columns: int, dtype: mx.Dtype) -> int:
        """How many pieces of 16 bytes `columns` of its elements are."""
        return columns * (self.bits or dtype.size * 8) // 128


def float_bits(value: float) -> int:
    """A float32 as the integer constant that kernels read it from: constants are integers."""
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
    """How many rows a simdgroup takes: `wanted`, or what divides all of `rows`."""
    return math.gcd(wanted, *(n for n in rows if n))


def loads_in_flight(streams: int, pieces: int, most: int = IN_FLIGHT) -> int:
    """How many pieces of each of `streams` rows a lane has under way, of a tile of `pieces`."""
    return max(1, min(most // streams, -(-pieces // SIMD)))


def staging(
    tile: int, streams: int, matrix: Matrix, dtype: mx.Dtype, most: int = IN_FLIGHT
) -> dict[str, Constant]:
    """Constants of a text that stages `tile` elements, a lane having `streams` rows under way."""
    return {"TILE": tile, "AHEAD": loads_in_flight(streams, matrix.pieces(tile, dtype), most)}


def launch_grid(rows: int, each: int, simds: int, second: int = 1) -> tuple[Size, Size]:
    """Grid and threadgroup for `rows` rows, `each` to a simdgroup, times `second`."""
    groups = -(-rows // (each * simds))
    return (groups * simds * SIMD, second, 1), (simds * SIMD, 1, 1)
