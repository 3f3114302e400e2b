"""Linear layers of many experts in one stacked tensor, plain and quantized."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


def _rows(x: mx.array, sorted_experts: bool) -> mx.array | None:
    """Which row of ``x [N, 1, in]`` meets the i-th of the experts: the i-th.

    MLX takes its grouped path for sorted experts only if that is left unsaid (ops.cpp, 0.32).
    """
    return None if sorted_experts else mx.arange(x.shape[0], dtype=mx.uint32)


def gather(x: mx.array, weight: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
    """``x [N, 1, in]`` through the matrices ``weight [E, out, in]`` of ``experts [N]``."""
    return mx.gather_mm(
        x,
        weight.swapaxes(-1, -2),
        lhs_indices=_rows(x, sorted_experts),
        rhs_indices=experts,
        sorted_indices=sorted_experts,
    )


class ExpertLinear(nn.Module):
    """``weight [E, out, in]``: row i of the input meets the matrix of its own expert."""

    packed = False

    def __init__(self, input_dims: int, output_dims: int, experts: int) -> None:
        super().__init__()
        bound = input_dims**-0.5
        self.weight = mx.random.uniform(-bound, bound, (experts, output_dims, input_dims))

    def _extra_repr(self) -> str:
        experts, output_dims, input_dims = self.weight.shape
        return f"experts={experts}, input_dims={input_dims}, output_dims={output_dims}"

    def __call__(self, x: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
        """``x [N, 1, in]`` through ``experts [N]`` uint32; returns ``[N, 1, out]``.

        `sorted_experts` promises that `experts` ascends, which lets MLX group the rows.
        """
        return gather(x, self.weight, experts, sorted_experts)

    def unpacked(self, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        """The weights ``[last - first, out, in]`` of experts `first` to `last`."""
        return self.weight[first:last].astype(dtype)

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> QuantizedExpertLinear:
        """The same layer, packed; ``mlx.nn.quantize`` calls this."""
        del quantize_input  # activations stay as they are
        return QuantizedExpertLinear(self.weight, group_size or 64, bits or 4, mode)


class QuantizedExpertLinear(nn.Module):
    """An `ExpertLinear` packed as MLX packs matrices, each expert by itself."""

    packed = True

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, *biases = mx.quantize(weight, group_size, bits, mode=mode)
        self.biases = biases[0] if biases else None
        self.freeze()

    def _extra_repr(self) -> str:
        experts, output_dims, _ = self.weight.shape
        return f"experts={experts}, output_dims={output_dims}, bits={self.bits}, mode={self.mode}"

    def __call__(self, x: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
        """As `ExpertLinear.__call__`."""
        return mx.gather_qmm(
            x,
            self.weight,
            self.scales,
            self.biases,
            lhs_indices=_rows(x, sorted_experts),
            rhs_indices=experts,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            sorted_indices=sorted_experts,
        )

    def unpacked(self, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        """As `ExpertLinear.unpacked`: here they are unpacked for it."""
        biases = None if self.biases is None else self.biases[first:last]
        return mx.dequantize(
            self.weight[first:last],
            self.scales[first:last],
            biases,
            self.group_size,
            self.bits,
            self.mode,
            dtype=dtype,
        )
