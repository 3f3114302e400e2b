"""GPTQ's packing: inputs one behind the other in an int32, and a group index for each input.

``qweight [in * bits / 32, out]``, ``qzeros [in / group, out * bits / 32]``, ``scales [in / group,
out]``, ``g_idx [in]``. With activation order (``desc_act``) the groups of `g_idx` are scattered.
``w[out, in] = (q - zero) * scale[g_idx]``: exact in float32, rounded once.

In the first version of the format the stored zero is one too small, modulo 2**bits (AutoGPTQ
subtracted 1 before packing); ``checkpoint_format: gptq_v2`` stores it as it is.
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


def check_config(block: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless the quantization is the one this module reads."""
    bits, kind = block.get("bits"), block.get("checkpoint_format", "gptq")
    if bits not in (2, 4, 8) or kind not in ("gptq", "gptq_v2"):
        raise ConfigError(
            "config.json: quantization_config (gptq)",
            got=f"bits {bits!r}, checkpoint_format {kind!r}",
            expected="bits 2, 4 or 8 and checkpoint_format 'gptq' or 'gptq_v2'",
            hint="take the model's unquantized, FP8 or AWQ release",
        )


def part(tensors: Tensors, path: str, block: Mapping[str, Any]) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    stored = plain_or_packed(tensors, path)
    if not isinstance(stored, tuple):
        return stored
    weight, zeros, scales = stored
    bits, plus = block["bits"], int(block.get("checkpoint_format", "gptq") == "gptq")
    found = GptqPart(weight, zeros, scales, tensors.get(f"{path}.g_idx"), bits, plus)
    found.check(path)
    return found


@dataclass(frozen=True, slots=True)
class GptqPart:
    """One matrix in GPTQ's packing."""

    qweight: TensorInfo
    qzeros: TensorInfo
    scales: TensorInfo
    g_idx: TensorInfo | None
    bits: int
    plus: int
    """What the stored zeros lack."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs: the dense matrix is the transpose of what is stored."""
        return self.scales.shape[1], self.qweight.shape[0] * 32 // self.bits

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Weights, zeros, scales, and the group index if there is one."""
        return tuple(t for t in (self.qweight, self.qzeros, self.scales, self.g_idx) if t)

    def check(self, path: str) -> None:
        """Raise `CheckpointError` unless the shapes fit together."""
        outputs, inputs = self.shape
        groups = self.scales.shape[0]
        sound = self.qweight.shape[1] == outputs and groups > 0
        sound = sound and self.qzeros.shape == (groups, outputs * self.bits // 32)
        if self.g_idx is not None:
            sound = sound and self.g_idx.shape == (inputs,)
        else:
            sound = sound and inputs % groups == 0
        if not sound:
            got = ", ".join(f"{t.name.rpartition('.')[2]} {list(t.shape)}" for t in self.tensors)
            expected = "qweight [in*bits/32, out], qzeros [groups, out*bits/32], scales, g_idx [in]"
            raise CheckpointError(f"{path} is not GPTQ", got=got, expected=expected)

    def open(self, dtype: mx.Dtype) -> Reader:
        """Outputs lie across the file, so the packed matrix (a quarter of bf16) is held."""
        weight, zeros, scales = map(read_tensor, (self.qweight, self.qzeros, self.scales))
        inputs, groups = self.shape[1], scales.shape[0]
        index = self._index(inputs, groups)
        each = 32 // self.bits

        def read(start: int, stop: int) -> mx.array:
            q = _along(weight[:, start:stop].T, self.bits)  # [out, in]
            low, high = start // each, -(-stop // each)
            z = _along(zeros[:, low:high], self.bits)[:, start - low * each : stop - low * each]
            z = ((z + self.plus) & (2**self.bits - 1)).T[:, index]
            s = scales[:, start:stop].T.astype(mx.float32)[:, index]
            return ((q - z).astype(mx.float32) * s).astype(dtype)

        return read

    def _index(self, inputs: int, groups: int) -> mx.array:
        if self.g_idx is None:
            return mx.arange(inputs) // (inputs // groups)
        index = read_tensor(self.g_idx)
        least, most = int(index.min()), int(index.max())
        if least < 0 or most >= groups:
            got, expected = f"{least} to {most}", f"0 to {groups - 1}"
            raise CheckpointError(self.g_idx.name, got=got, expected=expected)
        return index


def _along(packed: mx.array, bits: int) -> mx.array:
    """``[n, m]`` int32 to ``[n, m * 32 / bits]`` int32, lowest bits first."""
    shifts = mx.arange(0, 32, bits, dtype=mx.uint32)
    values = (packed.view(mx.uint32)[..., None] >> shifts) & (2**bits - 1)
    return values.astype(mx.int32).reshape(packed.shape[0], -1)
