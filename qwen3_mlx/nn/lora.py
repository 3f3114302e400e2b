"""Low-rank adapters of linear layers: ``y + (x Aᵀ) Bᵀ`` (arXiv 2106.09685).

B already contains the adapter's scale. The base keeps its stored form, packed or plain. The fused
kernels read matrices and don't add adapters, so they don't run on adapted layers.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.nn.experts import gather
from qwen3_mlx.nn.rows import one_by_one
from qwen3_mlx.nn.unpack import Stack

STANDS_ASIDE = (
    "the model has a LoRA adapter, which the kernels don't add (convert --fuse ends that)"
)


class LoRALinear(nn.Module):
    """A linear layer ``base`` with an adapter ``lora_a [r, in]``, ``lora_b [out, r]``."""

    def __init__(self, base: nn.Module, a: mx.array, b: mx.array) -> None:
        super().__init__()
        self.base, self.lora_a, self.lora_b = base, a, b

    def __call__(self, x: mx.array) -> mx.array:
        """Transform ``x [..., in]`` to ``[..., out]``."""
        update = one_by_one(lambda row: (row @ self.lora_a.T) @ self.lora_b.T, x)
        return self.base(x) + update.astype(x.dtype)


class LoRAExpertLinear(nn.Module):
    """A stack of experts ``base`` with adapters ``lora_a [E, r, in]``, ``lora_b [E, out, r]``."""

    def __init__(self, base: Stack, a: mx.array, b: mx.array) -> None:
        super().__init__()
        self.base, self.lora_a, self.lora_b = base, a, b

    @property
    def weight(self) -> mx.array:
        """The base's stored weight; its first dimension is the number of experts."""
        return self.base.weight

    @property
    def packed(self) -> bool:
        """Whether the base's weights are packed."""
        return self.base.packed

    def __call__(self, x: mx.array, experts: mx.array, sorted_experts: bool) -> mx.array:
        """As `ExpertLinear.__call__`, plus the adapters' update."""
        low = gather(x, self.lora_a, experts, sorted_experts)
        update = gather(low, self.lora_b, experts, sorted_experts)
        return self.base(x, experts, sorted_experts) + update.astype(x.dtype)

    def unpacked(self, first: int, last: int, dtype: mx.Dtype) -> mx.array:
        """As `ExpertLinear.unpacked`: the sum of the base's weights and the adapters' update."""
        update = self.lora_b[first:last] @ self.lora_a[first:last]
        return self.base.unpacked(first, last, dtype) + update.astype(dtype)


def base_of(layer: nn.Module) -> nn.Module:
    """The layer below an adapter; a layer without an adapter is returned itself."""
    return layer.base if isinstance(layer, LoRALinear) else layer


def adapted(network: nn.Module) -> bool:
    """Whether any layer of `network` has an adapter."""
    return any(isinstance(m, (LoRALinear, LoRAExpertLinear)) for m in network.modules())
