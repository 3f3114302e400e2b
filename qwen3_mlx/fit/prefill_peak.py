"""What a prefill needs beside weights and cache: the arrays alive together at its peak, counted.

MLX does not free an array when Python lets go of it but when the work that reads it is done, and
it hands out work ahead: on the CPU ten tasks of ten dispatches (transforms.cpp, cpu/encoder.h), on
a GPU ten command buffers of some operations each. One layer of this network is about as long as
that on the CPU and longer on a GPU, so at the peak everything one layer makes is alive together,
each array counted once. That is what the sums below count, in numbers for one token:

    C  hidden width      Q  all query heads    K  all key heads     F  feed-forward
    k  experts a token   inner  their width    E  experts           S  keys attended to

`benchmarks/memory.py` holds the prediction to what MLX says of itself; the record is
benchmarks/results/memory.json, and memory-gpu.json for an H100. On Metal nothing is measured yet.
"""

from __future__ import annotations

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device.buffer_sizes import BLOCK, SCORES, UNPACK_ROWS


def rows(tokens: int, chunk: int, limit: int) -> list[tuple[int, int]]:
    """Chunk by chunk of a prefill: tokens held, and positions allocated for them.

    The cache's growth (`nn.cache`): what is needed, or twice what there is up to the context's
    `limit`, in whole blocks.
    """
    steps, held, allocated = [], 0, 0
    while held < tokens:
        held = min(held + chunk, tokens)
        if held > allocated:
            wanted = max(held, 2 * allocated)
            if held <= limit:
                wanted = min(wanted, limit)
            allocated = -(-wanted // BLOCK) * BLOCK
        steps.append((held, allocated))
    return steps


def activations(
    config: Qwen3Config,
    length: int,
    keys: int,
    *,
    on_cpu: bool,
    packed: bool = False,
    unpacks: bool = False,
) -> tuple[float, float]:
    """Numbers a token of a chunk of `length` needs at the peak, attending to `keys` positions.

    With all of a layer alive, and with nothing but attention's tiles (0 where it takes none).
    `packed`: the cache is kept in fewer bits. `unpacks`: on a GPU, weights are unpacked for it.
    """
    C = config.hidden_size
    Q = config.num_attention_heads * config.head_dim
    K = config.num_key_value_heads * config.head_dim
    # CPU: the residual, the squares and products of both norms (no kernel of their own there), the
    # two outputs and the next layer's norm; queries, their norm's two, RoPE's halves and the
    # rotated, the mixed values; keys as projected and rotated (the rest is donated or in the cache)
    # GPU: a norm and a rotation are one kernel each
    attention = 8 * C + 6 * Q + 2 * K if on_cpu else 6 * C + 5 * Q + 4 * K
    heads = config.num_attention_heads
    tiled = on_cpu and 4 * heads * length * keys > SCORES
    # All scores at once: softmax and mask write where they read; the mask is a byte for all heads.
    scores = (heads + 0.25) * keys if on_cpu and not tiled else 0.0
    waited = on_cpu and _unpacks(config)
    if packed and not tiled:  # keys and values of a layer unpacked: one by one, or for a kernel
        scores += ((3 if waited or config.is_moe else 1) if on_cpu else 2) * K * keys / length
    tiles = 2 * C + Q + 6 * K + _tiles(config, length, packed) if tiled else 0.0
    if waited:
        return _one_by_one(config, length, scores), tiles
    # on a GPU a layer's own matrices, and those of the next layer's attention
    plain = unpacks and not on_cpu and length >= UNPACK_ROWS["cuda"] and _unpacks(config)
    matrices = (2 * Q + 2 * K) * C / length if plain else 0.0
    if not config.is_moe:
        F = config.intermediate_size
        matrices *= 1 + 3 * F / (2 * Q + 2 * K)
        return attention + scores + 2 * F + matrices, tiles
    k, inner, E = config.num_experts_per_tok, config.moe_intermediate_size, config.num_experts
    if on_cpu:  # experts one after another, each waited for; then what the next layer begins with
        return max(attention + scores, k * (3 * C + inner) + 9 * C), tiles
    # Here a layer takes more operations than the window is long. Either the experts are in it:
    # gate and up; rows gathered, put through, put back in order, and weighted in float32. Or
    # attention is, and of the experts only the rows put through and put back.
    experts = attention - 2 * C + k * (2 * inner + 4.5 * C) + 3 * E
    if plain and _on_units(config):  # hidden layers, what every expert gives, and that in float32;
        # the sum twice. Two layers are under way (`nn.evaluate`), unless a cache is unpacked.
        experts = attention + matrices + k * (inner + 3 * C) + 3 * E + 3 * C
        experts = experts + scores if packed else 2 * experts
    elif plain:  # every expert's matrices (`nn.unpack`)
        experts = 2 * C + k * (5 * C + 3 * inner) + 3 * E * inner * C / length + matrices
    return max(experts, attention + scores + 2 * k * C), tiles


def _unpacks(config: Qwen3Config) -> bool:
    """Whether prefill on the CPU unpacks the weights (`nn.unpack`)."""
    quantization = config.quantization
    spec = quantization.spec("model.layers.0.self_attn.q_proj") if quantization else None
    return spec is not None and spec.mode == "affine"


def _on_units(config: Qwen3Config) -> bool:
    """Whether the experts' weights stay packed (`metal.gather_matmul`)."""
    quantization = config.quantization
    spec = quantization.spec("model.layers.0.mlp.switch_mlp.gate_proj") if quantization else None
    return spec is not None and spec.mode == "affine" and spec.bits in (4, 8)


def _one_by_one(config: Qwen3Config, length: int, scores: float) -> float:
    """The most where each product unpacks its matrix and is waited for (`nn.unpack`).

    So not a layer is alive together but what lies between two products, and one matrix: its
    unpacked numbers, and as many while they are made. The widest are attention's output, gate and
    up, and the experts' rows (gathered, put through, put back in order).
    """
    C, Q = config.hidden_size, config.num_attention_heads * config.head_dim
    attention = C + 6 * Q + scores + 2 * Q * C / length
    if config.is_moe:
        k, inner = config.num_experts_per_tok, config.moe_intermediate_size
        return max(attention, k * (3 * C + inner) + 2 * C)
    F = config.intermediate_size
    return max(attention, 2 * F + 4 * C + 2 * F * C / length)


def _tiles(config: Qwen3Config, length: int, packed: bool) -> float:
    """Numbers a token of attention that takes the keys in tiles, each computed at once.

    Scores and their exponentials; queries scaled, the values' sum old and new. From a packed
    cache a tile of keys and of values, each there twice while it is unpacked.
    """
    heads, dim = config.num_attention_heads, config.head_dim
    tile = max(SCORES // (4 * heads * length), 64)
    rows = 4 * config.num_key_value_heads * dim * tile / length if packed else 0.0
    return heads * (2 * tile + 3 * dim) + rows


def peak_bytes(
    config: Qwen3Config,
    tokens: int,
    chunk: int,
    *,
    float_bytes: int,
    kv_bytes_per_token: int,
    on_cpu: bool,
    packed: bool,
    unpacks: bool = False,
) -> tuple[int, int]:
    """Bytes of the cache, and beside it of activations, at the peak of a prefill of `tokens`.

    A cache that grows holds one layer's old buffers until they are copied. On a GPU the packed
    rows of a layer are copied out of their buffers to be unpacked.
    """
    read = held = 0
    best = (0, 0)
    for done, allocated in rows(tokens, chunk, config.for_context(tokens).context):
        copied = (held if allocated > held else 0) + (done if packed and not on_cpu else 0)
        grown = copied * kv_bytes_per_token // config.num_hidden_layers
        work = work_bytes(
            config,
            done - read,
            done,
            grown,
            float_bytes=float_bytes,
            on_cpu=on_cpu,
            packed=packed,
            unpacks=unpacks,
        )
        read, held = done, allocated
        if allocated * kv_bytes_per_token + work > sum(best):
            best = allocated * kv_bytes_per_token, work
    return best


def work_bytes(
    config: Qwen3Config,
    length: int,
    keys: int,
    grown: int = 0,
    *,
    float_bytes: int,
    on_cpu: bool,
    packed: bool,
    unpacks: bool = False,
) -> int:
    """Bytes alive beside weights and cache while a chunk of `length` attends to `keys`.

    `grown`: bytes of one layer's buffers that are copied; they are gone before its tiles.
    """
    layer, tiles = activations(config, length, keys, on_cpu=on_cpu, packed=packed, unpacks=unpacks)
    unit = length * float_bytes
    return int(max(layer * unit + grown, tiles * unit)) + 4 * config.vocab_size
