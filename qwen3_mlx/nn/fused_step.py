"""One token through the network in few launches: seven per Mixture-of-Experts layer, five per dense
one (MLX's own operations make 30 and 19).

The plain modules define the network and do everything else; the step reads their weights. It is
compiled once, so that a token costs no Python: the position is an array, the key/value buffers
have few sizes, and a step's new keys and values go into short tails (see `qwen3_mlx.metal.attend`).
This machine's verdict chooses the arm (`qwen3_mlx.metal.verdict`).
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from qwen3_mlx.device.out_of_memory import is_out_of_memory
from qwen3_mlx.metal import attend, dispatch, layer, rotation, tuning
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices
from qwen3_mlx.metal.verdict import Arm
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.tailed import TailedCache, tailed
from qwen3_mlx.nn.evaluate import growing_together
from qwen3_mlx.nn.guarded import computed, first_line, is_of_a_trace
from qwen3_mlx.nn.lora import STANDS_ASIDE, adapted
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.rope import rotation_table
from qwen3_mlx.nn.signature import (
    fail_in_use,
    guarded_of,
    head_of,
    layer_of,
    unsupported,
    verdict_of,
)
from qwen3_mlx.nn.step_parts import StepParts
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

LONG = 1024
"""Past tokens from which the arm for a long past runs; it lies between the timed pasts."""

OPERATIONS: dict[Arm, layer.Operations] = {"hybrid": layer.HYBRID, "fused": layer.FUSED}

Arms = tuple[Arm, Arm]
"""The arms for a short and for a long past."""


class FusedStep:
    """A compiled step of one token; one instance per conversation.

    It keeps the weights it was made with: create another after replacing them.
    """

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat = AS_COMPUTED,
        arms: Arms = ("fused", "fused"),
        cuts: tuning.Cuts | None = None,
    ) -> None:
        self.network, self.cache_format, self.arms = network, cache_format, arms
        self.cuts = dict(cuts or {})
        self.head = head_of(network)
        self.layers = [layer_of(block) for block in network.layers]
        first = network.layers[0].self_attn
        self.table = rotation_table(first.head_dim, first.rope.rope)
        self.guarded = guarded_of(network)
        self.fault = ""
        """Why it takes the plain path from now on; empty if it doesn't."""
        alone = not any(sum for one in self.layers for sum in one.sums)
        self._forwards: dict[Arm, StepParts] = {
            arm: StepParts(
                self._begin, partial(self._through, OPERATIONS[arm]), len(self.layers), eager=alone
            )
            for arm in {*arms} - {"stock"}
        }
        self._met: set[object] = set()
        """The arms and buffer sizes whose kernels have run."""

    @classmethod
    def if_available(
        cls, network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED
    ) -> FusedStep | None:
        """The step of `network`, or None if it takes the plain path."""
        arms, reason = choose_arms(network, cache_format)
        if reason:
            return None
        held = verdict_of(network, cache_format)
        return cls(network, cache_format, arms, held.cuts if held is not None else None)

    def make_cache(self) -> list[KVCache]:
        """Empty caches with tails for one conversation, one per layer."""
        return [tailed(self.cache_format, self.network) for _ in self.layers]

    def __call__(self, tokens: mx.array, cache: list[KVCache]) -> mx.array:
        """``tokens [1, 1]`` to logits ``[1, 1, V]``, as `Qwen3Network`; `cache` grows by one.

        If a kernel raises, the plain network computes the same token: `cache` changes only at the
        end, when it takes the tails. Errors of memory and of a shared network are raised.
        """
        layers, lead = [h for h in cache if isinstance(h, TailedCache)], self.network.model.lead
        fault = self.fault or (self.guarded.fault if self.guarded is not None else "")
        if fault or len(layers) < len(cache) or not cache[0].state or tokens.size != 1:
            return self.network(tokens, cache)
        arm = self.arms[layers[0].offset >= LONG]
        if arm == "stock":
            return self.network(tokens, cache)
        try:
            if lead is None:
                logits, tails = self._run(arm, tokens, layers)
            else:
                logits, tails = lead.forward(
                    lambda told: self._run(arm, told, layers), tokens, layers
                )
        except Exception as error:
            if lead is not None or is_out_of_memory(error):
                raise  # the other machines have begun this step
            if not is_of_a_trace(error):
                self._give_up(error)
            return self.network(tokens, cache)
        for held, tail in zip(layers, tails, strict=True):
            held.grow(tail)
        return logits

    def _run(
        self, arm: Arm, tokens: mx.array, layers: list[TailedCache]
    ) -> tuple[mx.array, list[mx.array]]:
        """A step in `arm`: logits, and the tails with one more token."""
        with growing_together():
            pasts = [held.open() for held in layers]
        counts = mx.array([layers[0].held, layers[0].recent], mx.int32)
        logits, tails, _ = self._forwards[arm](tokens, pasts, counts)
        kernels = (arm, tuple(array.shape for array in pasts[0]))
        if kernels not in self._met:  # compiler and device errors must surface within the `try`
            computed(logits, *tails)
            self._met.add(kernels)
        return logits, tails

    def _give_up(self, error: Exception) -> None:
        self.fault = first_line(error)
        fail_in_use(self.network, self.cache_format, "a fused step", self.fault)

    def _begin(self, tokens: mx.array, counts: mx.array) -> tuple[mx.array, mx.array]:
        return self.network.model.embed_tokens(tokens), rotation.rotation(self.table, counts)

    def _through(
        self,
        operations: layer.Operations,
        span: slice,
        x: mx.array,
        turns: mx.array,
        pasts: list[tuple[mx.array, ...]],
        counts: mx.array,
    ) -> tuple[mx.array, list[mx.array]]:
        tails = []
        with tuning.cut_by(self.cuts):
            for one, past in zip(self.layers[span], pasts, strict=True):
                x, tail = one.step(x, turns, self._past(past, counts), operations)
                tails.append(tail)
            last = span.stop == len(self.layers)
            return self._logits(x, operations) if last else x, tails

    def _past(self, arrays: tuple[mx.array, ...], counts: mx.array) -> attend.Past:
        """Name the arrays of `TailedCache.open`: a trace accepts only arrays."""
        *parts, tail = arrays
        matrices = as_matrices(tuple(parts), self.cache_format, self.network.head_dim)
        return attend.Past(*matrices, tail, counts)

    def _logits(self, x: mx.array, operations: layer.Operations) -> mx.array:
        norm = self.network.model.norm
        if unsupported_matrices([self.head], x.dtype):
            return self.network.head(norm(x))
        return operations.matvec(x, [self.head], norm.weight, norm.eps)


def as_matrices(
    arrays: tuple[mx.array, ...], cache_format: CacheFormat, head_dim: int
) -> tuple[Matrix, Matrix]:
    """The matrices of keys and of values from a cache's buffers: a trace accepts only arrays."""
    half, bits = len(arrays) // 2, cache_format.bits
    packing = (bits, cache_format.group(head_dim)) if bits else (0, 0)

    def matrix(weight: mx.array, *constants: mx.array) -> Matrix:
        scales, biases = constants or (None, None)
        return Matrix(weight, scales, biases, *packing)

    return matrix(*arrays[:half]), matrix(*arrays[half:])


def kernels_of(arm: Arm, network: Qwen3Network, cache_format: CacheFormat) -> tuple[str, ...]:
    """The names of the kernels that a step of `network` in `arm` launches."""
    moe = any(isinstance(block.mlp, MoE) for block in network.layers)
    names: tuple[str, ...] = dispatch.STEP if arm == "fused" else dispatch.HYBRID
    if cache_format.bits:
        names = tuple("attend_packed" if name == "attend" else name for name in names)
    return (*names, *(dispatch.EXPERTS if moe else ()))


def unsupported_network(network: Qwen3Network, cache_format: CacheFormat) -> str | None:
    """Why no machine's kernels could run `network` with these caches, or None."""
    if cache_format.window is not None:
        return "the kernel sees all of the past, not a window of it"
    if adapted(network):
        return STANDS_ASIDE
    reasons = (unsupported(layer_of(block)) for block in network.layers)
    return next((reason for reason in reasons if reason), None)


def choose_arms(
    network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED
) -> tuple[Arms, str | None]:
    """The arms that decode `network` on this machine; the reason if both are stock."""
    stock: Arms = ("stock", "stock")
    if network.model.stage is not None:
        return stock, "its layers lie on several machines, and a step is one machine's"
    if cache_format.window is not None or adapted(network):
        return stock, unsupported_network(network, cache_format)
    held = verdict_of(network, cache_format)

    def reason(arm: Arm) -> str | None:
        names = kernels_of(arm, network, cache_format)
        return dispatch.unavailable_reason(*names, verdict=held)

    fused, hybrid = reason("fused"), reason("hybrid")
    if fused and hybrid:
        return stock, fused
    if why := unsupported_network(network, cache_format):
        return stock, why
    if held is None or dispatch.forced():
        best: Arm = "hybrid" if fused else "fused"
        return (best, best), None
    able: dict[Arm, bool] = {"stock": True, "hybrid": not hybrid, "fused": not fused}
    short, long = (arm if able[arm] else "stock" for arm in held.arms())
    return (short, long), None if {short, long} != {"stock"} else fused or hybrid


def unavailable_reason(
    network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED
) -> str | None:
    """Why `network` doesn't decode in fused steps on this machine, or None."""
    return choose_arms(network, cache_format)[1]
