"""Lists the kernels and constants that a network uses, by recording its launches on blank arrays.

The language check and the proof both use this list, so neither tries a source that no model runs.
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
"""Bits and group size of MLX's affine mode."""

PLAIN: Packing = (0, 0)
"""The packing of a matrix that is not quantized."""

ROLES = ("qkv", "out", "gate_up", "down", "head")
"""Kinds of matrices, without the router; each kind may have its own packing."""

CAPACITIES = (1024, 8192)
"""Capacities of caches in tokens: one that `attend` reads in one part, and one that it splits."""

SHORT = 8
"""Elements from which MLX passes an array to Metal as `device` memory, not as `constant`."""

PROMPT = 64
"""Tokens of a prompt that is long enough to be sorted by expert."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything that determines a network's kernels. Sizes are the checkpoint's; layers that are
    packed differently have a signature of their own.
    """

    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    """Width of the feed-forward network; of one expert if there are experts."""
    vocabulary: int
    """Rows of the head; 0 if it is left to MLX's operations."""
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
    """Packings of those `ROLES` that differ from `packing`, by name."""

    def packing_of(self, role: str) -> Packing:
        """The packing of the matrices of `role`, one of `ROLES`."""
        return dict(self.others).get(role, self.packing)

    @property
    def attention(self) -> str:
        """The name in `dispatch` of its attention kernel for one token."""
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
        """The signature of `config` in `dtype`; all matrices except the router have `packing`."""
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
        """A blank matrix ``[..., N, K]``, packed as the network's matrices of `role`."""
        return blank(self.packing_of(role), self.dtype, *shape)

    def zeros(self, *shape: int) -> mx.array:
        """Blank activations or norm weights, in the network's dtype."""
        return mx.zeros(shape, self.dtype)


def blank(packing: Packing, dtype: mx.Dtype, *shape: int) -> Matrix:
    """A matrix of zeros ``[..., N, K]``; it is lazy, so its size takes no memory."""
    bits, group = packing
    if not bits:
        return Matrix(mx.zeros(shape, dtype))
    *rows, columns = shape
    scales, biases = (mx.zeros((*rows, columns // group), dtype) for _ in range(2))
    weight = mx.zeros((*rows, columns * bits // 32), mx.uint32)
    return Matrix(weight, scales, biases, bits, group)


def variants(network: Signature) -> list[Launch]:
    """The launches of `network`, one for each distinct source, on blank arrays never evaluated.

    `variants_of_rows` lists those of steps with rows separately, because a chat needs none.
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
    """Record the launches that `made` calls, without running them: one for each distinct source."""
    found: list[Launch] = []

    def record(launch: Launch) -> list[mx.array]:
        found.append(launch)
        return [mx.zeros(shape, dtype) for shape, dtype in launch.outputs.values()]

    with executing_with(record):
        made()
    return list({text_key(launch): launch for launch in found}.values())


def text_key(launch: Launch) -> tuple[object, ...]:
    """Everything that the compiled source depends on: names and dtypes of arrays, and constants.

    On Metal also which arrays are short: MLX passes those in another address space.
    """
    short = SHORT if backend.device() != "cuda" else 0
    arrays = launch.inputs.items()
    dtypes = tuple((name, str(array.dtype), array.size < short) for name, array in arrays)
    constants = tuple((name, str(value)) for name, value in launch.constants.items())
    return (launch.kernel, launch.staged, tuple(launch.outputs), dtypes, constants)


def text_digest(launch: Launch) -> str:
    """A digest of `text_key`, 16 hexadecimal digits, to pass between processes."""
    return hashlib.sha256(repr(text_key(launch)).encode()).hexdigest()[:16]


def _attention(network: Signature, capacity: int) -> None:
    """Launch one token's attention, from the norm before it to the residual after it."""
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
    """Launch one token of a decode step, the few of a short prompt, and the many of a long one."""
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
    """The experts' hidden layers and their indices, as `layer.hidden` computes them."""
    n, eps = network, network.eps if norm is not None else 0.0
    if tuning.choosing():
        return gate_up.route_and_gate_up(x, *matrices, logits, n.top_k, n.normalise, norm, eps)
    experts, weights = route.route(logits, n.top_k, n.normalise)
    return gate_up.gate_up(x, *matrices, experts, weights, norm, eps), experts
