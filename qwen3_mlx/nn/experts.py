"""Linear layers of many experts in one stacked tensor, plain and quantized."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


def _rows(x: mx.array, sorted_experts: bool) -> mx.array | None:
    """The row of ``x [N, 1, in]`` for the i-th of the experts: row i.

    MLX groups sorted experts only if the row indices are None (ops.cpp, 0.32).
    """
    return None if sorted_experts else mx.arange(x.shape[0], dtype=mx.uint32)


def gather(x: mx.array, weight: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
    """Multiply ``x [N, 1, in]`` by the matrices ``weight [E, out, in]`` of ``experts [N]``."""
    return mx.gather_mm(
        x,
        weight.swapaxes(-1, -2),
        lhs_indices=_rows(x, sorted_experts),
        rhs_indices=experts,
        sorted_indices=sorted_experts,
    )


class ExpertLinear(nn.Module):
    """``weight [E, out, in]``: input row i is multiplied by the matrix of its expert."""

    packed = False

    def __init__(self, input_dims: int, output_dims: int, experts: int) -> None:
        super().__init__()
        bound = input_dims**-0.5
        self.weight = mx.random.uniform(-bound, bound, (experts, output_dims, input_dims))

    def _extra_repr(self) -> str:
        experts, output_dims, input_dims = self.weight.shape
        return f"experts={experts}, input_dims={input_dims}, output_dims={output_dims}"

    def __call__(self, x: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
        """Multiply ``x [N, 1, in]`` by ``experts [N]`` uint32; returns ``[N, 1, out]``.

        sorted_experts: promises that `experts` ascends, which lets MLX group the rows.
        """
        return gather(x, self.weight, experts, sorted_experts)

    def unpacked(self, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        """The weights ``[last - first, out, in]`` of experts `first` to `last`, exclusive."""
        return self.weight[first:last].astype(dtype)

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> QuantizedExpertLinear:
        """Pack the layer; ``mlx.nn.quantize`` calls this. Defaults: groups of 64, 4 bits."""
        del quantize_input  # activations are never packed
        return QuantizedExpertLinear(self.weight, group_size or 64, bits or 4, mode)


class QuantizedExpertLinear(nn.Module):
    """An `ExpertLinear` in MLX's packed format, each expert packed separately."""

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
        """As `ExpertLinear.__call__`, on packed weights."""
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
        """As `ExpertLinear.unpacked`; this computes them with `mx.dequantize`."""
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
