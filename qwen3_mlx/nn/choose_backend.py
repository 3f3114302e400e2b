"""Chooses a network's `Backend` on this machine; explains the choice for `qwen3-mlx doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from weakref import ref

import qwen3_mlx.device.backend as device_backend

import mlx.nn as nn

from qwen3_mlx.device import unpack_policy
from qwen3_mlx.metal import dispatch
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.nn import fused_experts
from qwen3_mlx.nn.backend import Backend
from qwen3_mlx.nn.guarded import Guarded
from qwen3_mlx.nn.linear import QuantizedLinear
from qwen3_mlx.nn.lora import STANDS_ASIDE, adapted, base_of
from qwen3_mlx.nn.mlp import MLP
from qwen3_mlx.nn.moe import Experts, MoE
from qwen3_mlx.nn.signature import fail_in_use, verdict_of
from qwen3_mlx.nn.transformer import Qwen3Body
from qwen3_mlx.options import AS_COMPUTED, CacheFormat


def choose_backend(network: nn.Module, cache_format: CacheFormat = AS_COMPUTED) -> Backend:
    """Set the backend of every module of `network`; returns the settings that all have in common.

    Call it when the weights are loaded, and again after packing them or changing their dtype.
    cache_format: that of its conversations; the verdict on the kernels depends on it. Raises
    `OptionError` if an environment variable names no mode or kernel.
    """
    policy, verdict = unpack_policy.choose_policy(), verdict_of(network, cache_format)
    common = Backend(policy, paced=device_backend.device() != "cpu")
    guarded = Guarded(partial(_failed, ref(network), cache_format))
    for module in network.modules():
        if isinstance(module, (Experts, Qwen3Body)):
            module.backend = common
        elif isinstance(module, QuantizedLinear):
            module.backend = _linear(common, module, module.backend.waits_for_input)
        elif isinstance(module, MoE):
            module.backend = _routed(replace(common, guarded=guarded), module, verdict)
        elif isinstance(module, MLP):
            first = base_of(module.gate_proj)
            if isinstance(first, QuantizedLinear):
                first.backend = _linear(common, first, waits=True)
    return common


def _failed(network: ref[nn.Module], cache_format: CacheFormat, fault: str) -> None:
    """Record the fault, if the network still exists: the guard holds a weak reference to it."""
    if (module := network()) is not None:
        fail_in_use(module, cache_format, "a kernel of the experts", fault)


def _linear(common: Backend, layer: QuantizedLinear, waits: bool) -> Backend:
    policy = common.policy if layer.mode == "affine" else None
    return replace(common, policy=policy, waits_for_input=waits)


def _routed(common: Backend, moe: MoE, verdict: Verdict | None) -> Backend:
    if adapted(moe.switch_mlp):
        return common
    experts = moe.routed()
    few = () if fused_experts.few_unavailable(experts, verdict) else (experts.dtype,)
    many = () if fused_experts.many_unavailable(experts, verdict) else (experts.dtype,)
    return replace(common, few=few, many=many)


def reasons() -> Iterator[tuple[str, str]]:
    """How this machine runs prefill and decode, and why: pairs of a name and a text."""
    yield "prefill, packed", unpack_policy.explain()
    reason = dispatch.unavailable_reason(*dispatch.PROMPT)
    experts = f"as above: {reason}" if reason else "4 and 8 bits: packed, on matrix units"
    if unpack_policy.is_forced():
        experts = f"as above: {unpack_policy.VARIABLE} says so"
    yield "prefill, experts", experts
    for name, kernels in (("decode, dense", ()), ("decode, experts", dispatch.EXPERTS)):
        reason = dispatch.unavailable_reason(*dispatch.STEP, *kernels)
        yield name, f"plain operations: {reason}" if reason else "fused steps"
    yield "LoRA adapters", f"plain operations: {STANDS_ASIDE}"
