"""AWQ's "gemm" packing: eight outputs in an int32, interleaved for NVIDIA's tensor cores.

``qweight [in, out / 8]``, ``qzeros [in / group, out / 8]`` and ``scales [in / group, out]``.
Nibble i (bits 4i to 4i + 3) of an int32 is output ``ORDER[i]`` of its eight (AutoAWQ's
``AWQ_ORDER``). The "gemv" packing has outputs in rows, and nibbles in order.
``w[out, in] = (q - zero) * scale``: exact in float32, rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import read_rows, read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.packing import Packing
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats.parts import (
    Part,
    Reader,
    Tensors,
    plain_or_packed,
    unpack_words,
)

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PLACE = tuple(ORDER.index(i) for i in range(8))
"""Output i of eight is in nibble ``PLACE[i]``."""


def part(tensors: Tensors, path: str, packing: Packing) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    stored = plain_or_packed(tensors, path)
    if not isinstance(stored, tuple):
        return stored
    weight, zeros, scales = stored
    two = all(len(info.shape) == 2 for info in stored)
    found: AwqPart | GemvPart
    if packing.settings.get("version") == "gemv":
        found = GemvPart(weight, zeros, scales, int(packing.settings.get("group_size") or 128))
        sound, expected = two and found.is_sound(), "qweight [out, in/8], qzeros, scales [out, …]"
    else:
        found = AwqPart(weight, zeros, scales)
        sound = two and found.is_sound()
        expected = "qweight [in, out/8], qzeros [in/group, out/8], scales [in/group, out]"
    if not sound:
        got = f"qweight {list(weight.shape)}, qzeros {list(zeros.shape)}, {list(scales.shape)}"
        raise CheckpointError(f"{path} is not AWQ", got=got, expected=expected)
    return found


@dataclass(frozen=True, slots=True)
class AwqPart:
    """One matrix in AWQ's packing."""

    qweight: TensorInfo
    qzeros: TensorInfo
    scales: TensorInfo

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs; the stored matrix is transposed."""
        return self.scales.shape[1], self.qweight.shape[0]

    def is_sound(self) -> bool:
        """Whether the shapes agree."""
        inputs, packed = self.qweight.shape
        groups, outputs = self.scales.shape
        whole = groups > 0 and inputs % groups == 0
        return whole and outputs == 8 * packed and self.qzeros.shape == (groups, packed)

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Weights, zeros, scales."""
        return self.qweight, self.qzeros, self.scales

    def open(self, dtype: mx.Dtype) -> Reader:
        """Rows are stored as columns, so the whole packed matrix (a quarter of bf16) is held."""
        weight, zeros, scales = (read_tensor(info) for info in self.tensors)
        group = self.shape[1] // scales.shape[0]

        def read(start: int, stop: int) -> mx.array:
            low, high = start // 8, -(-stop // 8)
            q = _unpack(weight[:, low:high])  # [out, in]
            z = mx.repeat(_unpack(zeros[:, low:high]), group, axis=1)
            s = mx.repeat(scales[:, 8 * low : 8 * high].T.astype(mx.float32), group, axis=1)
            rows = ((q - z).astype(mx.float32) * s).astype(dtype)
            return rows[start - 8 * low : stop - 8 * low]

        return read


@dataclass(frozen=True, slots=True)
class GemvPart:
    """One matrix in AWQ's other packing ("gemv"): outputs in rows, inputs in order."""

    qweight: TensorInfo
    qzeros: TensorInfo
    scales: TensorInfo
    group: int

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.qweight.shape[0], 8 * self.qweight.shape[1]

    def is_sound(self) -> bool:
        """Whether the shapes agree; zeros and scales are padded to whole words."""
        outputs, inputs = self.shape
        if self.group < 1 or inputs % self.group:
            return False
        words = self.qzeros.shape[1]
        sound = self.qzeros.shape[0] == outputs and 8 * words >= inputs // self.group
        return sound and self.scales.shape == (outputs, 8 * words)

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Weights, zeros, scales."""
        return self.qweight, self.qzeros, self.scales

    def open(self, dtype: mx.Dtype) -> Reader:
        """Read row by row."""
        groups = self.shape[1] // self.group

        def read(start: int, stop: int) -> mx.array:
            q = unpack_words(read_rows(self.qweight, start, stop), 4)
            z = unpack_words(read_rows(self.qzeros, start, stop), 4)[:, :groups]
            s = read_rows(self.scales, start, stop).astype(mx.float32)[:, :groups]
            z, s = (mx.repeat(each, self.group, axis=1) for each in (z, s))
            return ((q - z).astype(mx.float32) * s).astype(dtype)

        return read


def _unpack(packed: mx.array) -> mx.array:
    """``[n, out / 8]`` int32 to int8 ``[out, n]``, the outputs in their own order."""
    shifts = mx.array([4 * place for place in PLACE], dtype=mx.uint32)
    nibbles = (packed.view(mx.uint32).T[:, None, :] >> shifts[:, None]) & 15  # [out / 8, 8, n]
    return nibbles.astype(mx.int8).reshape(-1, packed.shape[0])
