"""How a network's products run: plain, unpacked or fused operations, chosen once at load.

The modules hold a `Backend` and call it; `qwen3_mlx.nn.choose_backend` chooses it. A network
without a choice, and one in training, runs `PLAIN`: MLX's own operations, evaluated lazily.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import qwen3_mlx.device.backend  # noqa: F401  (first: it loads a BLAS before MLX)

import mlx.core as mx

from qwen3_mlx.device.unpack_policy import UnpackPolicy
from qwen3_mlx.metal.gate_up import MAX_TOKENS
from qwen3_mlx.metal.layer import Routed
from qwen3_mlx.metal.matrix import Matrix
from qwen3_mlx.nn import evaluate, fused_experts, unpack
from qwen3_mlx.nn.guarded import Guarded

Experts = Callable[[mx.array, mx.array], mx.array]
"""Maps tokens ``[T, C]`` and the router's logits ``[T, E]`` to ``[T, C]``."""

Through = Callable[[unpack.Stack, mx.array], mx.array]
"""Maps a stack of experts and their rows ``[N, 1, in]`` to ``[N, 1, out]``."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The settings by which one module runs its products."""

    policy: UnpackPolicy | None = None
    """When packed weights are unpacked; None: never."""
    waits_for_input: bool = False
    """Whether a linear layer evaluates its input before it unpacks its weights, which frees the
    unpacked weights of the previous layer."""
    few: tuple[mx.Dtype, ...] = ()
    """Activation dtypes for which `fused_experts.few` runs."""
    many: tuple[mx.Dtype, ...] = ()
    """Activation dtypes for which `fused_experts.many` runs."""
    guarded: Guarded | None = None
    """The guard around both; None: neither runs."""
    paced: bool = False
    """Whether a GPU gets one layer of a prompt at a time."""

    def unpacks(self, rows: int) -> bool:
        """Whether a packed matrix is unpacked before a product of `rows` rows."""
        return self.policy is not None and rows >= self.policy.rows

    def linear(self, x: mx.array, packed: Matrix, bias: mx.array | None) -> mx.array:
        """``x [..., in]`` times a matrix that is unpacked for this product, to ``[..., out]``.

        If the policy waits, no two matrices of a layer are unpacked at once. On the CPU MLX
        allocates a layer and a half ahead, and waiting costs nothing measurable (512 tokens
        through 8 layers of 0.6B: 1.57 s with, 1.64 s without).
        """
        if self.waits_for_input:
            evaluate.evaluate_now(x)
        assert packed.scales is not None
        weight = mx.dequantize(
            packed.weight, packed.scales, packed.biases, packed.group, packed.bits, dtype=x.dtype
        )
        out = x @ weight.T if bias is None else x @ weight.T + bias
        if self.policy is not None and self.policy.waits:
            evaluate.evaluate_now(out)
        return out

    def through_experts(
        self, x: mx.array, pairs: mx.array, ascending: bool, first: unpack.Stack
    ) -> Through:
        """A function that multiplies rows by the experts ``pairs [N]``, packed or unpacked.

        x: the tokens ``[T, C]``. first: one of the experts' stacks. ascending: `pairs` is sorted.
        """
        policy = self.policy if ascending else None
        rows = unpack.rows_per_expert(x, pairs, first, policy) if policy else None
        if policy is None or rows is None:
            return lambda layer, y: layer(y, pairs, ascending)
        return lambda layer, y: unpack.product(layer, y, pairs, rows, policy)

    def experts(
        self, x: mx.array, logits: mx.array, routed: Callable[[], Routed], plain: Experts
    ) -> mx.array:
        """The routed experts of ``x [T, C]`` by router ``logits [T, E]``, to ``[T, C]``."""
        few = len(x) <= MAX_TOKENS and x.dtype in self.few
        if self.guarded is None or not (few or x.dtype in self.many):
            return plain(x, logits)
        run, kind = (fused_experts.few, len(x)) if few else (fused_experts.many, 0)
        return self.guarded(kind, lambda: run(x, logits, routed()), lambda: plain(x, logits))

    def pace(self, x: mx.array, behind: mx.array) -> None:
        """Start to evaluate ``x [B, L, C]``, then wait for the layer `behind`, if `paced`."""
        if self.paced:
            evaluate.pace(x, behind)


PLAIN = Backend()
"""MLX's own operations."""
