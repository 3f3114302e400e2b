"""Which kernels a network uses, with which constants: its launches, made on blank arrays.

The language check and the proof both go through these, so neither tries a text that no model runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal import (
    attend,
    dispatch,
    down,
    gate_up,
    gather_matmul,
    matvec,
    rotation,
    route,
    tuning,
)
from qwen3_mlx.metal.launch import Launch, executing_with
from qwen3_mlx.metal.matrix import Matrix

Packing = tuple[int, int]
"""Bits and group of MLX's affine mode."""

PLAIN: Packing = (0, 0)
"""Of a matrix that is not quantized."""

ROLES = ("qkv", "out", "gate_up", "down", "head")
"""Matrices that may be packed each in its own way, the router aside."""

CAPACITIES = (1024, 8192)
"""Tokens that a cache has room for: one that `attend` reads in one part, and one that it splits."""

SHORT = 8
"""Elements from which an array isn't short to Metal."""

PROMPT = 64
"""Tokens of a prompt long enough to be sorted by expert."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What decides a network's kernels. Sizes are the checkpoint's; layers packed in another way
    are another signature.
    """

    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    """Of one expert where there are experts."""
    vocabulary: int
    """0 where the head is left to MLX's operations."""
    dtype: mx.Dtype
    packing: Packing
    router: Packing = PLAIN
    head_dim: int = 128
    experts: int = 0
    top_k: int = 0
    normalise: bool = True
    eps: float = 1e-6
    kv_packing: Packing = PLAIN
    others: tuple[tuple[str, Packing], ...] = ()
    """Packings of `ROLES` where they aren't `packing`, by name."""

    def packing_of(self, role: str) -> Packing:
        """How the matrices of `role` are packed."""
        return dict(self.others).get(role, self.packing)

    @property
    def attention(self) -> str:
        """The kernel of its attention, by the name that `dispatch` has for it."""
        return "attend_packed" if self.kv_packing[0] else "attend"

    @classmethod
    def of(
        cls,
        config: Qwen3Config,
        dtype: mx.Dtype,
        packing: Packing,
        router: Packing = PLAIN,
        kv_packing: Packing = PLAIN,
    ) -> Signature:
        """The signature of `config` in `dtype`, with all matrices but the router packed alike."""
        return cls(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.moe_intermediate_size if config.num_experts else config.intermediate_size,
            config.vocab_size,
            dtype,
            packing,
            router,
            head_dim=config.head_dim,
            experts=config.num_experts,
            top_k=config.num_experts_per_tok,
            normalise=config.norm_topk_prob,
            eps=config.rms_norm_eps,
            kv_packing=kv_packing,
        )

    def matrix(self, role: str, *shape: int) -> Matrix:
        """A blank ``[..., N, K]``, packed as the network's of that `role`."""
        return blank(self.packing_of(role), self.dtype, *shape)

    def zeros(self, *shape: int) -> mx.array:
        """A blank array of activations or norm weights."""
        return mx.zeros(shape, self.dtype)


def blank(packing: Packing, dtype: mx.Dtype, *shape: int) -> Matrix:
    """A matrix of zeros ``[..., N, K]``, lazy, so that its size costs nothing."""
    bits, group = packing
    if not bits:
        return Matrix(mx.zeros(shape, dtype))
    *rows, columns = shape
    scales, biases = (mx.zeros((*rows, columns // group), dtype) for _ in range(2))
    weight = mx.zeros((*rows, columns * bits // 32), mx.uint32)
    return Matrix(weight, scales, biases, bits, group)


def variants(network: Signature) -> list[Launch]:
    """Every launch of `network` that has a text of its own, on blank arrays nobody computes.

    Those of a step of rows are apart, in `variants_of_rows`: a chat needs none.
    """

    def made() -> None:
        for capacity in CAPACITIES:
            _attention(network, capacity)
        if network.experts:
            _experts(network)
        else:
            _dense(network)
        if network.vocabulary:
            x = network.zeros(1, 1, network.hidden)
            head = network.matrix("head", network.vocabulary, network.hidden)
            matvec.matvec(x, [head], network.zeros(network.hidden), network.eps)

    return recorded(made)


def recorded(made: Callable[[], object]) -> list[Launch]:
    """What `made` launches, each text once."""
    found: list[Launch] = []

    def record(launch: Launch) -> list[mx.array]:
        found.append(launch)
        return [mx.zeros(shape, dtype) for shape, dtype in launch.outputs.values()]

    with executing_with(record):
        made()
    return list({text_key(launch): launch for launch in found}.values())


def text_key(launch: Launch) -> tuple[object, ...]:
    """What the text depends on: the names and dtypes of arrays, and the constants.

    On Metal also which arrays are short: those are passed in another address space.
    """
    short = SHORT if backend.device() != "cuda" else 0
    arrays = launch.inputs.items()
    dtypes = tuple((name, str(array.dtype), array.size < short) for name, array in arrays)
    constants = tuple((name, str(value)) for name, value in launch.constants.items())
    return (launch.kernel, launch.staged, tuple(launch.outputs), dtypes, constants)


def text_digest(launch: Launch) -> str:
    """The same, short enough to be handed from process to process."""
    return hashlib.sha256(repr(text_key(launch)).encode()).hexdigest()[:16]


def _attention(network: Signature, capacity: int) -> None:
    """From the norm before attention to the residual behind it."""
    n, dim, heads = network, network.head_dim, (network.heads, network.kv_heads)
    x, gain = n.zeros(1, 1, n.hidden), n.zeros(n.hidden)
    rows = (n.heads * dim, n.kv_heads * dim, n.kv_heads * dim)
    qkv = matvec.matvec(x, [n.matrix("qkv", count, n.hidden) for count in rows], gain, n.eps)
    keys, values = (blank(n.kv_packing, n.dtype, 1, n.kv_heads, capacity, dim) for _ in range(2))
    tail = n.zeros(2, n.kv_heads, attend.TAIL, dim)
    past = attend.Past(keys, values, tail, mx.zeros((2,), mx.int32))
    turns = rotation.rotation(mx.zeros((dim // 2 + 1,)), past.counts)
    out, _ = attend.attend(qkv, heads, (n.zeros(dim), n.zeros(dim)), n.eps, turns, past)
    matvec.matvec(out, [n.matrix("out", n.hidden, n.heads * dim)], residual=x)


def _dense(network: Signature) -> None:
    n = network
    x, gain = n.zeros(1, 1, n.hidden), n.zeros(n.hidden)
    gate, up = (n.matrix("gate_up", n.feed_forward, n.hidden) for _ in range(2))
    h = gate_up.gate_up(x, gate, up, norm=gain, eps=n.eps)
    matvec.matvec(h, [n.matrix("down", n.hidden, n.feed_forward)], residual=x)


def _experts(network: Signature) -> None:
    """One token of the decode step, a few of a short prompt, and many of a long one."""
    n = network
    x, gain = n.zeros(1, 1, n.hidden), n.zeros(n.hidden)
    gate, up = (n.matrix("gate_up", n.experts, n.feed_forward, n.hidden) for _ in range(2))
    last = n.matrix("down", n.experts, n.hidden, n.feed_forward)
    router = blank(n.router, n.dtype, n.experts, n.hidden)
    logits = matvec.matvec(x, [router], gain, n.eps)
    h, experts = _hidden(n, x, (gate, up), logits, gain)
    down.down(h, last, experts, residual=x)
    for tokens in range(1, gate_up.MAX_TOKENS + 1):
        rows, logits = n.zeros(tokens, n.hidden), n.zeros(tokens, n.experts)
        h, experts = _hidden(n, rows, (gate, up), logits, None)
        down.down(h, last, experts)
    wanted = (backend.device(), "gather_matmul") not in dispatch.STOCK
    if wanted and not gather_matmul.unsupported_reason(n.dtype, gate, up, last):
        experts = mx.zeros((PROMPT, n.top_k), mx.uint32)
        plan, weights = gather_matmul.plan(experts, n.experts), mx.zeros((PROMPT, n.top_k))
        h = gather_matmul.gate_up(n.zeros(PROMPT, n.hidden), gate, up, weights, plan)
        gather_matmul.down(h, last, plan)


def _hidden(
    network: Signature,
    x: mx.array,
    matrices: tuple[Matrix, Matrix],
    logits: mx.array,
    norm: mx.array | None,
) -> tuple[mx.array, mx.array]:
    """The experts' hidden layers as this backend makes them: choice inside, or in a launch before.

    Also the experts.
    """
    n, eps = network, network.eps if norm is not None else 0.0
    if tuning.choosing():
        return gate_up.route_and_gate_up(x, *matrices, logits, n.top_k, n.normalise, norm, eps)
    experts, weights = route.route(logits, n.top_k, n.normalise)
    return gate_up.gate_up(x, *matrices, experts, weights, norm, eps), experts
