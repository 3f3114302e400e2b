"""An upper bound of a prefill's memory besides the weights: the arrays alive at its peak.

MLX frees an array when the work that reads it is done, and runs ahead by about a layer. So each of
a layer's arrays counts once, and `MARGIN` covers the rest. The letters:

    C  hidden width      Q  all query heads    K  all key heads     F  feed-forward
    k  experts per token inner  their width    E  experts

The bound holds for every measurement in benchmarks/results/memory*.json (MLX's CPU backend, an
H100) and is at most 10 % above it; a test compares them. On Metal nothing is measured yet.
"""

from __future__ import annotations

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device.buffer_sizes import SCORES, UNPACK_ROWS, UNPACK_ROWS_PER_EXPERT
from qwen3_mlx.fit.kv_cache import growth, kv_bytes_per_token
from qwen3_mlx.fit.machine import Machine

MARGIN = 1.06
"""Measured peaks are up to 6 % above the sum of the arrays."""


def peak_bytes(
    config: Qwen3Config, machine: Machine, tokens: int, chunk: int, kv_bits: int | None = None
) -> tuple[int, int]:
    """Bytes of the cache, and of the rest without weights, at a prefill's peak.

    A layer's old buffers live until they are copied; a GPU also copies a layer's packed rows out.
    Buffers grow up to the context of `config`, or what YaRN makes of it where `tokens` are more.
    """
    per_token = kv_bytes_per_token(config, kv_bits, machine.float_bytes or 2)
    before, best = 0, (0, 0)
    limit = config.context if tokens <= config.context else config.reaching(tokens).reach
    for length, held, allocated in growth(tokens, chunk, limit):
        copied = before if allocated > before else 0
        if kv_bits is not None and machine.fused_attention:
            copied += held
        copies = copied * per_token // config.num_hidden_layers
        work = chunk_bytes(config, machine, length, held, kv_bits is not None, copies)
        before = allocated
        best = max(best, (allocated * per_token, work), key=sum)
    return best


def chunk_bytes(
    config: Qwen3Config, machine: Machine, length: int, keys: int, packed: bool, copies: int = 0
) -> int:
    """Bytes besides weights and cache while `length` tokens attend to `keys` positions.

    packed: the cache is quantized. copies: bytes of a layer's buffers that are copied meanwhile.
    """
    length = min(length, keys)
    if machine.fused_attention:
        numbers = _on_gpu(config, length, keys, packed, machine)
    else:
        numbers = _on_cpu(config, length, keys, packed)
    needed = numbers * (machine.float_bytes or 2) + copies
    return int(MARGIN * needed) + 4 * config.vocab_size


def _on_cpu(config: Qwen3Config, length: int, keys: int, packed: bool) -> int:
    """Numbers in a layer's arrays; with unpacked weights in one product's, as each is waited for.

    Scores are alive all at once or per tile. Experts are computed one after another.
    """
    C, Q, K, heads = *_widths(config), config.num_attention_heads
    k, inner = config.num_experts_per_tok, config.moe_intermediate_size
    F = 0 if k else config.intermediate_size
    waits = _unpacks(config, "self_attn.q_proj")
    # Without waiting: also the feed-forward's arrays, or the rows of the experts before.
    layer = length * (C + 6 * Q if waits else 8 * C + 6 * Q + 2 * K + 2 * F + 5 * k * C // 2)
    if 4 * heads * length * keys > SCORES:
        tile = max(SCORES // (4 * heads * length), 64)
        rows = 2 * C + 4 * Q + 6 * K + 2 * heads * tile
        layer = max(layer, length * rows + (4 * K * tile if packed else 0))
    else:
        layer += (4 * heads + 1) * length * keys // 4
        layer += (3 if waits or k else 1) * K * keys if packed else 0
    if k:
        layer = max(layer, length * (k * (3 * C + inner) + 9 * C))
    return layer + (2 * C * max(Q, F) if waits else 0)


def _on_gpu(config: Qwen3Config, length: int, keys: int, packed: bool, machine: Machine) -> int:
    """Numbers in a layer's arrays and unpacked matrices; in two layers' for experts."""
    C, Q, K = _widths(config)
    layer = length * (8 * C + 6 * Q + 4 * K) + (2 * K * keys if packed else 0)
    scores = config.num_attention_heads * length * keys
    if 4 * scores <= machine.composed_scores:  # of float32: as products, masked, as weights
        layer += 5 * scores + 2 * K * keys
    unpacks = (
        machine.unpacks and length >= UNPACK_ROWS["cuda"] and _unpacks(config, "self_attn.q_proj")
    )
    matrices = (2 * Q + 2 * K) * C if unpacks else 0
    if not config.is_moe:
        F = config.intermediate_size
        return layer + 2 * length * F + 2 * matrices + (3 * F * C if unpacks else 0)
    k, inner, E = config.num_experts_per_tok, config.moe_intermediate_size, config.num_experts
    many = length * k >= UNPACK_ROWS_PER_EXPERT["cuda"] * E
    if unpacks and many and _unpacks(config, "mlp.switch_mlp.gate_proj", but=(4, 8)):
        matrices += 3 * E * inner * C
    return 2 * (layer + length * (k * (inner + 3 * C) + 3 * C + 3 * E) + matrices)


def _widths(config: Qwen3Config) -> tuple[int, int, int]:
    queries = config.num_attention_heads * config.head_dim
    return config.hidden_size, queries, config.num_key_value_heads * config.head_dim


def _unpacks(config: Qwen3Config, path: str, but: tuple[int, ...] = ()) -> bool:
    """Whether a matrix of the first layer is packed in affine mode with bits not in `but`."""
    quantization = config.quantization
    spec = quantization.spec(f"model.layers.0.{path}") if quantization else None
    return spec is not None and spec.mode == "affine" and spec.bits not in but
