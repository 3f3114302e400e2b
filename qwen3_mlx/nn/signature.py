"""A network's layers in the kernels' format, their signatures, and this machine's verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.nn as nn

from qwen3_mlx.metal import attend, dispatch, prove, route, verdict
from qwen3_mlx.metal.layer import Layer, Routed
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices
from qwen3_mlx.metal.variants import PLAIN, Packing, Signature
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.nn.fused_experts import matrix_of
from qwen3_mlx.nn.guarded import Guarded
from qwen3_mlx.nn.lora import adapted
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.transformer import Block, Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat


def layer_of(block: Block) -> Layer:
    """The weights of `block` in the format of a fused step, without copies."""
    a, mlp = block.self_attn, block.mlp
    if isinstance(mlp, MoE):
        network: Routed | tuple[Matrix, Matrix, Matrix] = mlp.routed()
    else:
        gate, up, down = (matrix_of(m) for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        network = (gate, up, down)
    return Layer(
        [matrix_of(m) for m in (a.q_proj, a.k_proj, a.v_proj)],
        matrix_of(a.o_proj),
        (a.heads, a.kv_heads),
        (a.q_norm.weight, a.k_norm.weight),
        (block.input_layernorm.weight, block.post_attention_layernorm.weight),
        block.input_layernorm.eps,
        network,
        matrix_of(mlp.gate) if isinstance(mlp, MoE) else None,
        (block.sums.attention, block.sums.feed_forward),
    )


def head_of(network: Qwen3Network) -> Matrix:
    """The head's matrix; with tied embeddings, the embedding's."""
    tied = "lm_head" not in network
    return matrix_of(network.model.embed_tokens if tied else network.lm_head)


def unsupported(layer: Layer) -> str | None:
    """Why the kernels can't run `layer`, or None."""
    dtype, experts = layer.norms[0].dtype, layer.network
    if reason := attend.unsupported_dim(len(layer.head_norms[0])):
        return reason
    for matrices in layer.groups():
        if matrices and (reason := unsupported_matrices(matrices, dtype)):
            return reason
    if isinstance(experts, Routed):
        return route.unsupported_reason(dtype, experts.count, experts.top_k)
    return None


def signatures(module: nn.Module, cache_format: CacheFormat = AS_COMPUTED) -> list[Signature]:
    """The distinct signatures of the layers in `module`; empty if a kernel can't run one."""
    if adapted(module):
        return []
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    layers = [layer_of(block) for block in blocks]
    if cache_format.window is not None or any(unsupported(layer) for layer in layers):
        return []
    head = None
    if isinstance(module, Qwen3Network) and module.model.stage is None:
        head = head_of(module)
    return list({_signature(layer, head, cache_format): None for layer in layers})


def _signature(layer: Layer, head: Matrix | None, cache_format: CacheFormat) -> Signature:
    dtype, dim, (gate, up, down) = layer.norms[0].dtype, len(layer.head_norms[0]), layer.matrices
    del up
    if head is not None and unsupported_matrices([head], dtype):
        head = None  # MLX's operations compute the head
    roles = {"qkv": layer.qkv[0], "out": layer.out, "gate_up": gate, "down": down, "head": head}
    packing, bits, experts = _packing(layer.qkv[0]), cache_format.bits, layer.network
    routed = experts if isinstance(experts, Routed) else None
    return Signature(
        hidden=len(layer.norms[0]),
        heads=layer.heads[0],
        kv_heads=layer.heads[1],
        feed_forward=gate.rows,
        vocabulary=head.rows if head is not None else 0,
        dtype=dtype,
        packing=packing,
        router=_packing(layer.router),
        head_dim=dim,
        experts=routed.count if routed else 0,
        top_k=routed.top_k if routed else 0,
        normalise=routed.normalise if routed else True,
        eps=layer.eps,
        kv_packing=(bits, cache_format.group(dim)) if bits else PLAIN,
        others=tuple(
            (role, own)
            for role, m in roles.items()
            if m is not None and (own := _packing(m)) != packing
        ),
    )


def _packing(matrix: Matrix | None) -> Packing:
    return (matrix.bits, matrix.group) if matrix is not None else PLAIN


def verdict_file(module: nn.Module, cache_format: CacheFormat = AS_COMPUTED) -> Path | None:
    """The file of the verdict on `module`; None if no kernel could run whatever the verdict.

    Raises `OptionError` if an environment variable names no kernel.
    """
    if dispatch.trusted() or dispatch.off_reason("attend"):
        return None
    found = signatures(module, cache_format)
    return verdict.file_of(found) if found else None


def verdict_of(module: nn.Module, cache_format: CacheFormat = AS_COMPUTED) -> Verdict | None:
    """This machine's verdict on the kernels of `module`, or None.

    If the user chose the kernels and they were never proven, this proves them now: the user
    decides whether they run, not whether they are right.
    """
    file = verdict_file(module, cache_format)
    if file is None:
        return None
    held = verdict.read(file)
    if held is None and dispatch.forced():
        say("trying the kernels at this model's sizes, once: about ten seconds")
        try:
            held = prove.prove(signatures(module, cache_format))
        except prove.Skipped:
            say("the machine slept meanwhile; the next start tries them again")
            return None
        if fault := verdict.write(file, held):
            say(f"the verdict can't be kept ({fault}), so it will be found again")
    return held


def fail_in_use(module: nn.Module, cache_format: CacheFormat, what: str, fault: str) -> None:
    """Report that `what` failed, and record it: later starts run `module` in plain steps."""
    say(f"{what} failed, so plain operations go on: {fault}")
    if (guarded := guarded_of(module)) is not None:
        guarded.fault = fault
    file = verdict_file(module, cache_format)
    if file is not None:
        held = verdict.read(file) or Verdict(machine=verdict.machine())
        held.wrong["step"] = f"failed in use: {fault}"
        verdict.write(file, held)


def guarded_of(module: nn.Module) -> Guarded | None:
    """The guard of the experts' kernels, which all layers share; None if there is none."""
    parts = (part.backend.guarded for part in module.modules() if isinstance(part, MoE))
    return next((guarded for guarded in parts if guarded is not None), None)


def say(line: str) -> None:
    """Print a line for the user on standard error."""
    print(f"qwen3-mlx: {line}", file=sys.stderr)  # noqa: T201
