"""compressed-tensors, llm-compressor's format. The stored tensors of a matrix show its kind:

    weight_packed int32, weight_scale          integers of 2, 4, 8 bits in words ("pack-quantized")
    weight_packed uint8, weight_scale float8   NVFP4: two 4-bit floats in a byte, groups of 16
    weight int8 or float8, weight_scale        codes times scales

Integers are stored with half their range added, zeros too: ``w = (q - zero) * scale``. NVFP4:
``w = e2m1 * (scale / weight_global_scale)``. All in float32, rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import read_rows, read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.packing import Packing
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import open_regular
from qwen3_mlx.quantize.formats.parts import (
    Part,
    PlainPart,
    Reader,
    Tensors,
    group_index,
    require_floats,
    unpack_words,
)
from qwen3_mlx.quantize.formats.scaled import CODES, scaled_part

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of a 4-bit float; the highest bit is the sign."""


def part(tensors: Tensors, path: str, packing: Packing) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    weight = tensors.get(f"{path}.weight")
    scale = tensors.get(f"{path}.weight_scale")
    zeros = tensors.get(f"{path}.weight_zero_point")
    if weight is not None:
        if weight.dtype not in CODES:
            return PlainPart(weight)
        if weight.dtype == "I8":
            _require_zeros(path, zeros, packing)
        return scaled_part(weight, scale, _block_size(packing), zeros)
    packed = tensors.get(f"{path}.weight_packed")
    if packed is None:
        return None
    if scale is None or len(packed.shape) != 2 or len(scale.shape) != 2:
        raise CheckpointError(f"{path}.weight_scale", got="nothing that fits weight_packed")
    if packed.dtype == "U8":
        return _nvfp4(path, packed, scale, tensors.get(f"{path}.weight_global_scale"))
    require_floats(scale)
    _require_zeros(path, zeros, packing)
    shape = tensors.get(f"{path}.weight_shape")
    found = PackedPart(packed, scale, zeros, tensors.get(f"{path}.weight_g_idx"), shape, 0, 0)
    rows, columns = _stated_shape(path, shape)
    bits = [n for n in packing.other_bits if packed.shape[1] == -(-columns // (32 // n))]
    groups = scale.shape[1]
    sound = packed.dtype == "I32" and packed.shape[0] == rows == scale.shape[0] and len(bits) == 1
    sound = sound and groups > 0 and (found.index is not None or columns % groups == 0)
    if sound and zeros is not None:
        sound = zeros.shape == (-(-rows * bits[0] // 32), groups)
    if sound and found.index is not None:
        sound = found.index.shape == (columns,)
    if not sound:
        got = f"weight_packed {packed.dtype} {list(packed.shape)}, scales {list(scale.shape)}"
        expected = f"{rows} x {columns} in words of {sorted(packing.other_bits)} bits"
        raise CheckpointError(
            f"{path} is not packed as config.json says", got=got, expected=expected
        )
    return PackedPart(packed, scale, zeros, found.index, shape, bits[0], columns)


def _require_zeros(path: str, zeros: TensorInfo | None, packing: Packing) -> None:
    """Raise `CheckpointError` if zero points are missing though all weights are asymmetric."""
    groups = (group or {} for group in packing.settings["config_groups"].values())
    symmetries = [weights.get("symmetric") for group in groups if (weights := group.get("weights"))]
    if zeros is None and symmetries and all(symmetric is False for symmetric in symmetries):
        expected = "zeros, as config.json says symmetric false"
        raise CheckpointError(f"{path}.weight_zero_point", got="nothing", expected=expected)


def _block_size(packing: Packing) -> tuple[int, int] | None:
    for group in packing.settings["config_groups"].values():
        size = ((group or {}).get("weights") or {}).get("block_structure")
        if isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size):
            return size[0], size[1]
    return None


def _stated_shape(path: str, shape: TensorInfo | None) -> tuple[int, int]:
    """The dense shape in ``weight_shape``, since packed rows are padded to whole words."""
    if shape is None or shape.shape != (2,) or shape.dtype not in ("I64", "I32"):
        raise CheckpointError(f"{path}.weight_shape", got="nothing", expected="two whole numbers")
    with open_regular(shape.file) as stream:
        stream.seek(shape.offset)
        raw = stream.read(shape.nbytes)
    size = shape.nbytes // 2
    rows, columns = (int.from_bytes(raw[n : n + size], "little") for n in (0, size))
    return rows, columns


@dataclass(frozen=True, slots=True)
class PackedPart:
    """A matrix of integers packed in words along its rows."""

    packed: TensorInfo
    scale: TensorInfo
    zeros: TensorInfo | None
    index: TensorInfo | None
    stated_shape: TensorInfo | None
    bits: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of the dense matrix."""
        return self.packed.shape[0], self.columns

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Words, scales, and the optional tensors that exist."""
        found = (self.packed, self.scale, self.zeros, self.index, self.stated_shape)
        return tuple(info for info in found if info)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read words row by row; zeros, packed along the rows, stay in memory."""
        groups, each = self.scale.shape[1], 32 // self.bits
        half = 2 ** (self.bits - 1)
        index = None if self.index is None else group_index(self.index, self.columns, groups)
        zeros = None if self.zeros is None else read_tensor(self.zeros)

        def spread(grid: mx.array) -> mx.array:
            if index is None:  # faster than gathering columns on a CPU
                return mx.repeat(grid, self.columns // groups, axis=1)
            return grid[:, index]

        def read(start: int, stop: int) -> mx.array:
            q = unpack_words(read_rows(self.packed, start, stop), self.bits)[:, : self.columns]
            scales = spread(read_rows(self.scale, start, stop).astype(mx.float32))
            offset = mx.array(half, mx.int32)
            if zeros is not None:
                low, high = start // each, -(-stop // each)
                z = unpack_words(zeros[low:high].T, self.bits)[:, start - low * each :]
                offset = spread(z[:, : stop - start].T)  # both include `half`, which cancels
            return ((q - offset).astype(mx.float32) * scales).astype(dtype)

        return read


def _nvfp4(
    path: str, packed: TensorInfo, scale: TensorInfo, overall: TensorInfo | None
) -> Nvfp4Part:
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    if scale.dtype != "F8_E4M3" or scale.shape != (rows, columns // 16) or columns % 16:
        got = f"{scale.dtype} {list(scale.shape)}"
        raise CheckpointError(scale.name, got=got, expected=f"F8_E4M3 {[rows, columns // 16]}")
    if overall is None or overall.nbytes != 4 or overall.dtype != "F32":
        raise CheckpointError(f"{path}.weight_global_scale", got="nothing", expected="a float32")
    return Nvfp4Part(packed, scale, overall)


@dataclass(frozen=True, slots=True)
class Nvfp4Part:
    """A matrix of 4-bit floats; a byte's lower half is the even column."""

    packed: TensorInfo
    scale: TensorInfo
    overall: TensorInfo

    @property
    def shape(self) -> tuple[int, int]:
        """Of the dense matrix."""
        return self.packed.shape[0], 2 * self.packed.shape[1]

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Bytes, scales of groups, the scale of the whole."""
        return self.packed, self.scale, self.overall

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read row by row."""
        values = mx.array([*E2M1, *(-value for value in E2M1)], mx.float32)
        overall = read_tensor(self.overall).reshape(())

        def read(start: int, stop: int) -> mx.array:
            both = read_rows(self.packed, start, stop)
            codes = mx.stack([both & 15, both >> 4], axis=-1).reshape(stop - start, -1)
            scales = mx.from_fp8(read_rows(self.scale, start, stop), mx.float32) / overall
            return (values[codes] * mx.repeat(scales, 16, axis=1)).astype(dtype)

        return read
