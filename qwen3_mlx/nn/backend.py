"""What runs a network's products: plain, unpacked or fused operations, chosen once at load.

The modules hold a `Backend` and call it; `qwen3_mlx.nn.choose_backend` chooses it. A network that
nobody chose for, and one in training, runs `PLAIN`: MLX's own operations, nothing waited for.
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
"""Tokens ``[T, C]`` and the router's logits ``[T, E]`` to ``[T, C]``."""

Through = Callable[[unpack.Stack, mx.array], mx.array]
"""A stack of experts and their rows ``[N, 1, in]`` to ``[N, 1, out]``."""


@dataclass(frozen=True, slots=True)
class Backend:
    """How one module's products run."""

    policy: UnpackPolicy | None = None
    """When packed weights are unpacked; None: never."""
    waits_for_input: bool = False
    """Whether a linear layer computes its input before it unpacks its own weights, which frees
    those of the layer before."""
    few: tuple[mx.Dtype, ...] = ()
    """Dtypes of the activations that `fused_experts.few` takes here."""
    many: tuple[mx.Dtype, ...] = ()
    """The same of `fused_experts.many`."""
    guarded: Guarded | None = None
    """What those run within; None where there are none."""
    paced: bool = False
    """Whether a GPU gets one layer of a prompt at a time."""

    def unpacks(self, rows: int) -> bool:
        """Whether a packed matrix that meets `rows` rows is unpacked first."""
        return self.policy is not None and rows >= self.policy.rows

    def linear(self, x: mx.array, packed: Matrix, bias: mx.array | None) -> mx.array:
        """``x [..., in]`` through a matrix unpacked for it, to ``[..., out]``.

        Where the policy waits, a layer's matrices are never unpacked together. On the CPU MLX
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
        """How rows of ``x [T, C]`` go through the experts ``pairs [N]``, as they are or unpacked.

        `first` is one of their stacks. If `ascending`, the pairs are sorted by expert.
        """
        policy = self.policy if ascending else None
        rows = unpack.rows_per_expert(x, pairs, first, policy) if policy else None
        if policy is None or rows is None:
            return lambda layer, y: layer(y, pairs, ascending)
        return lambda layer, y: unpack.product(layer, y, pairs, rows, policy)

    def experts(
        self, x: mx.array, logits: mx.array, routed: Callable[[], Routed], plain: Experts
    ) -> mx.array:
        """``x [T, C]`` by the router's ``logits [T, E]`` through its experts, to ``[T, C]``."""
        few = len(x) <= MAX_TOKENS and x.dtype in self.few
        if self.guarded is None or not (few or x.dtype in self.many):
            return plain(x, logits)
        run, kind = (fused_experts.few, len(x)) if few else (fused_experts.many, 0)
        return self.guarded(kind, lambda: run(x, logits, routed()), lambda: plain(x, logits))

    def pace(self, x: mx.array, behind: mx.array) -> None:
        """Begin a layer's output ``x [B, L, C]`` and wait for the layer `behind`, if that pays."""
        if self.paced:
            evaluate.pace(x, behind)


PLAIN = Backend()
"""MLX's own operations."""
