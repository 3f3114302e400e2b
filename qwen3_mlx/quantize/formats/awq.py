"""AWQ's "gemm" packing: eight outputs in an int32, interleaved for NVIDIA's tensor cores.

``qweight [in, out / 8]``, ``qzeros [in / group, out / 8]`` and ``scales [in / group, out]``.
Nibble i (bits 4i to 4i + 3) of an int32 is output ``ORDER[i]`` of its eight (AutoAWQ's
``AWQ_ORDER``). ``w[out, in] = (q - zero) * scale``: exact in float32, rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import TensorInfo
from qwen3_mlx.checkpoint.raw import read_tensor
from qwen3_mlx.errors import CheckpointError, ConfigError
from qwen3_mlx.quantize.formats.parts import Part, Reader, Tensors, plain_or_packed

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PLACE = tuple(ORDER.index(i) for i in range(8))
"""Output i of eight is in nibble ``PLACE[i]``."""


def check_config(block: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless the quantization is the one this module reads."""
    bits = block.get("bits", block.get("w_bit"))
    version = str(block.get("version", "gemm")).lower()
    zero_point = block.get("zero_point", True)
    if bits != 4 or version != "gemm" or zero_point is not True:
        raise ConfigError(
            "config.json: quantization_config (awq)",
            got=f"bits {bits!r}, version {version!r}, zero_point {zero_point!r}",
            expected="bits 4, version 'gemm', zero_point true",
            hint="take the model's unquantized, FP8 or GPTQ release",
        )


def part(tensors: Tensors, path: str, _block: Mapping[str, Any]) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    stored = plain_or_packed(tensors, path)
    if not isinstance(stored, tuple):
        return stored
    weight, zeros, scales = stored
    found = AwqPart(weight, zeros, scales)
    inputs, packed = weight.shape
    groups, outputs = scales.shape
    whole = groups > 0 and inputs % groups == 0
    if not whole or outputs != 8 * packed or zeros.shape != (groups, packed):
        got = f"qweight {list(weight.shape)}, qzeros {list(zeros.shape)}, {list(scales.shape)}"
        expected = "qweight [in, out/8], qzeros [in/group, out/8], scales [in/group, out]"
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
        """Outputs and inputs: the dense matrix is the transpose of what is stored."""
        return self.scales.shape[1], self.qweight.shape[0]

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Weights, zeros, scales."""
        return self.qweight, self.qzeros, self.scales

    def open(self, dtype: mx.Dtype) -> Reader:
        """Outputs lie across the file, so the packed matrix (a quarter of bf16) is held."""
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


def _unpack(packed: mx.array) -> mx.array:
    """``[n, out / 8]`` int32 to int8 ``[out, n]``, the outputs in their own order."""
    shifts = mx.array([4 * place for place in PLACE], dtype=mx.uint32)
    nibbles = (packed.view(mx.uint32).T[:, None, :] >> shifts[:, None]) & 15  # [out / 8, 8, n]
    return nibbles.astype(mx.int8).reshape(-1, packed.shape[0])
