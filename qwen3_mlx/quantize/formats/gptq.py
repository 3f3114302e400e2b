"""GPTQ's packing: inputs one behind the other in an int32, and a group index for each input.

``qweight [in * bits / 32, out]``, ``qzeros [in / group, out * bits / 32]``, ``scales [in / group,
out]``, ``g_idx [in]``. With activation order (``desc_act``) the groups of `g_idx` are scattered.
``w[out, in] = (q - zero) * scale[g_idx]``: exact in float32, rounded once.

In version 1 of the format the stored zero is one too small, modulo 2**bits (AutoGPTQ subtracted 1
before packing); ``checkpoint_format: gptq_v2`` stores it unchanged. With GPTQModel's ``dynamic``,
modules have different bits, which their shapes show. AutoRound's symmetric format stores the middle
of the range, or one less in some versions, which the zeros show.
"""

from __future__ import annotations

from dataclasses import dataclass

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.packing import Packing
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats.parts import (
    Part,
    Reader,
    Tensors,
    group_index,
    plain_or_packed,
    unpack_columns,
    unpack_words,
)


def part(tensors: Tensors, path: str, packing: Packing) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    stored = plain_or_packed(tensors, path)
    if not isinstance(stored, tuple):
        return stored
    weight, zeros, scales = stored
    index = tensors.get(f"{path}.g_idx")
    known = sorted({packing.bits or 0, *packing.other_bits})
    found = [
        part
        for bits in known
        if (part := GptqPart(weight, zeros, scales, index, bits, packing.zero_offset)).is_sound()
    ]
    if len(found) != 1:
        tensors_of = (weight, zeros, scales, *([index] if index else []))
        got = ", ".join(f"{t.name.rpartition('.')[2]} {list(t.shape)}" for t in tensors_of)
        expected = "qweight [in*bits/32, out], qzeros [groups, out*bits/32], scales, g_idx [in]"
        bits_text = " or ".join(map(str, known))
        raise CheckpointError(f"{path} is not GPTQ of {bits_text} bits", got=got, expected=expected)
    return found[0]


@dataclass(frozen=True, slots=True)
class GptqPart:
    """One matrix in GPTQ's packing."""

    qweight: TensorInfo
    qzeros: TensorInfo
    scales: TensorInfo
    g_idx: TensorInfo | None
    bits: int
    plus: int | None
    """The offset to add to stored zeros; None: the one that makes all the middle of the range."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs; the stored matrix is transposed."""
        return self.scales.shape[1], self.qweight.shape[0] * 32 // self.bits

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Weights, zeros, scales, and the group index if there is one."""
        return tuple(t for t in (self.qweight, self.qzeros, self.scales, self.g_idx) if t)

    def is_sound(self) -> bool:
        """Whether the shapes agree, and the bits fill whole words."""
        if len(self.qweight.shape) != 2 or len(self.scales.shape) != 2:
            return False
        outputs, inputs = self.shape
        groups = self.scales.shape[0]
        sound = self.qweight.shape[1] == outputs and groups > 0
        sound = sound and self.qweight.shape[0] * 32 % self.bits == 0
        sound = sound and self.qzeros.shape == (groups, outputs * self.bits // 32)
        if self.g_idx is not None:
            return sound and self.g_idx.shape == (inputs,)
        return sound and inputs % groups == 0

    def open(self, dtype: mx.Dtype) -> Reader:
        """Rows are stored as columns, so the whole packed matrix (a quarter of bf16) is held."""
        weight, zeros, scales = map(read_tensor, (self.qweight, self.qzeros, self.scales))
        inputs, groups = self.shape[1], scales.shape[0]
        plus = self._to_the_middle(zeros) if self.plus is None else self.plus
        index = group_index(self.g_idx, inputs, groups)
        # Outputs whose zeros fill whole words: with 3 bits, 32 outputs in three words.
        each, words = (32, 3) if self.bits == 3 else (32 // self.bits, 1)

        def read(start: int, stop: int) -> mx.array:
            q = unpack_columns(weight[:, start:stop], self.bits)  # [in, out]
            low, high = start // each, -(-stop // each)
            z = unpack_words(zeros[:, low * words : high * words], self.bits)
            z = (z[:, start - low * each : stop - low * each] + plus) & (2**self.bits - 1)
            s = scales[:, start:stop].astype(mx.float32)
            # Whole rows are gathered, because gathering columns is slow on a CPU.
            return ((q - z[index]).astype(mx.float32) * s[index]).astype(dtype).T

        return read

    def _to_the_middle(self, zeros: mx.array) -> int:
        """The offset, 0 or 1, that makes all zeros half the range. Raises `CheckpointError`."""
        stored = unpack_words(zeros, self.bits)
        least, most = int(stored.min()), int(stored.max())
        plus = 2 ** (self.bits - 1) - least
        if least != most or plus not in (0, 1):
            middle = 2 ** (self.bits - 1)
            raise CheckpointError(
                f"{self.qzeros.name} is not symmetric, as config.json says",
                got=f"zeros of {least} to {most}",
                expected=f"{middle} in all places, or {middle - 1}",
            )
        return plus
