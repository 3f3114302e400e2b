"""The network's weights by module path and shape, and parameter counts."""

from __future__ import annotations

import math
from collections.abc import Iterator

from qwen3_mlx.config.network import Qwen3Config


def weight_shapes(config: Qwen3Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Module path and shape of every weight; experts are stacked, as MLX stores them."""
    width, dim = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    yield "model.embed_tokens", (config.vocab_size, width)
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm", (width,)
        yield f"{layer}.self_attn.q_proj", (queries, width)
        yield f"{layer}.self_attn.k_proj", (keys, width)
        yield f"{layer}.self_attn.v_proj", (keys, width)
        yield f"{layer}.self_attn.o_proj", (width, queries)
        yield f"{layer}.self_attn.q_norm", (dim,)
        yield f"{layer}.self_attn.k_norm", (dim,)
        yield f"{layer}.post_attention_layernorm", (width,)
        yield from _feed_forward(config, index, f"{layer}.mlp")
    yield "model.norm", (width,)
    if config.head and not config.tie_word_embeddings:
        yield "lm_head", (config.vocab_size, width)


def _feed_forward(
    config: Qwen3Config, index: int, path: str
) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = config.hidden_size, config.intermediate_size
    experts: tuple[int, ...] = ()
    if config.is_moe_layer(index):
        yield f"{path}.gate", (config.num_experts, width)
        inner, experts = config.moe_intermediate_size, (config.num_experts,)
        path = f"{path}.switch_mlp"
    yield f"{path}.gate_proj", (*experts, inner, width)
    yield f"{path}.up_proj", (*experts, inner, width)
    yield f"{path}.down_proj", (*experts, width, inner)


def parameters(config: Qwen3Config) -> int:
    """Parameters of the network; tied embeddings count once."""
    return sum(math.prod(shape) for _, shape in weight_shapes(config))


def active_parameters(config: Qwen3Config) -> int:
    """Parameters used for one token: all except the experts that it isn't routed to."""
    idle = config.num_experts - config.num_experts_per_tok
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    moe_layers = sum(config.is_moe_layer(index) for index in range(config.num_hidden_layers))
    return parameters(config) - moe_layers * idle * expert
