"""Linear layers whose packed weights are unpacked for many rows, if that is faster."""

from __future__ import annotations

from typing import cast

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.nn.backend import PLAIN, Backend
from qwen3_mlx.nn.fused_experts import matrix_of
from qwen3_mlx.nn.rows import of_several, one_by_one


class Linear(nn.Linear):
    """An ``nn.Linear`` that ``mlx.nn.quantize`` packs into this module's `QuantizedLinear`."""

    def __call__(self, x: mx.array) -> mx.array:
        """Transform ``x [..., in]`` to ``[..., out]``."""
        return one_by_one(super().__call__, x)

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> nn.QuantizedLinear:
        """Pack the layer; ``mlx.nn.quantize`` calls this."""
        if quantize_input:
            return super().to_quantized(group_size, bits, mode, quantize_input)
        # None selects the mode's default, as in nn.Linear.to_quantized; its annotations omit None
        group, width = cast(int, group_size), cast(int, bits)
        return QuantizedLinear.from_linear(self, group, width, mode)


class QuantizedLinear(nn.QuantizedLinear):
    """An ``nn.QuantizedLinear`` whose backend may unpack the weights for many rows."""

    backend: Backend = PLAIN

    def __call__(self, x: mx.array) -> mx.array:
        """Transform ``x [..., in]`` to ``[..., out]``.

        The last tokens of several sequences, ``[B, 1, in]``, stay packed: they come every step.
        """
        if self.backend.unpacks(x.size // x.shape[-1]) and not of_several(x):
            return self.backend.linear(x, matrix_of(self), self.get("bias"))
        return super().__call__(x)
