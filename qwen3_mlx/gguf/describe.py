"""Translates a GGUF file's metadata to Hugging Face's config.json.

Every key of the architecture is used, ignored for a reason, or an error, because it may change the
network. Values that llama.cpp fixes in its code (experts' weights are divided by their sum) are
added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwen3_mlx.errors import ConfigError, shown
from qwen3_mlx.gguf.header import GgufTensor
from qwen3_mlx.gguf.model import GgufModel
from qwen3_mlx.gguf.names import module_path

MODEL_TYPES = {"qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
EXACT_BITS = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8, "Q4_K": 4, "Q5_K": 5}
"""Types with an exact equivalent in MLX: groups of 32 with a scale and a bias."""
OTHER_BITS = 8
"""Bits to which other types are converted: MLX has no groups of 16."""
GROUP = 32
FLOATS = ("F32", "F16", "BF16")

_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
# Keys whose values must be the ones without effect.
_FIXED: dict[str, tuple[Any, ...]] = {
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_gating_func": (0, 1),  # 1 is softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "rope.scaling.finetuned": (True, False),
    "pooling_type": (0, 3),  # 3 takes the last token, as Qwen3-Embedding and the reranker do
}
_ROPE = {
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attn_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
_READ = ("attention.value_length", "rope.dimension_count", "rope.freq_base", "vocab_size")


def config(model: GgufModel) -> dict[str, Any]:
    """config.json for the model. Raises `ConfigError` for other architectures or unknown keys."""
    architecture = model.metadata.get("general.architecture")
    if architecture not in MODEL_TYPES:
        raise ConfigError(
            "GGUF: general.architecture",
            got=shown(architecture),
            expected=" or ".join(map(repr, MODEL_TYPES)),
            hint="this package runs Qwen3 only; llama.cpp runs other families",
        )
    start = f"{architecture}."
    metadata = {k.removeprefix(start): v for k, v in model.metadata.items() if k.startswith(start)}
    _check_keys(metadata)
    values: dict[str, Any] = {"model_type": MODEL_TYPES[architecture]}
    values |= {name: metadata[key] for key, name in _SIZES.items() if key in metadata}
    # llama.cpp stores float32; the original decimal is the nearest one with few digits.
    values["rms_norm_eps"] = decimal(values.get("rms_norm_eps", 1e-6))
    values["rope_theta"] = decimal(metadata.get("rope.freq_base", 10_000.0))
    _check_head(metadata, values)
    if scaling := _scaling(metadata):
        values["rope_scaling"] = scaling
    shapes = {path: t for t in model.tensors if (path := module_path(t.name))}
    if embedding := shapes.get("model.embed_tokens"):
        values["vocab_size"] = embedding.shape[0]
    values["tie_word_embeddings"] = "lm_head" not in shapes
    if architecture == "qwen3moe":
        values |= {"norm_topk_prob": True, "decoder_sparse_step": 1}
        dense = "model.layers.{}.mlp.gate_proj"
        layers = range(min(values.get("num_hidden_layers", 0), 1000))
        values["mlp_only_layers"] = [n for n in layers if dense.format(n) in shapes]
    values["torch_dtype"] = {"F16": "float16", "F32": "float32"}.get(
        float_type(model.tensors), "bfloat16"
    )
    if packed := _quantization(shapes):
        values["quantization"] = packed
    return values


def _check_keys(metadata: Mapping[str, Any]) -> None:
    for key, value in metadata.items():
        if key in _FIXED and value in _FIXED[key]:
            continue
        if key not in (*_SIZES, *_ROPE, *_READ):
            raise ConfigError(
                f"GGUF: {key}",
                got=shown(value),
                expected=shown(_FIXED[key][0]) if key in _FIXED else "no such key",
                hint="it may change the network, so it is not guessed at",
            )


def _check_head(metadata: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise unless values have the keys' length and heads are rotated as a whole."""
    for key in ("attention.value_length", "rope.dimension_count"):
        if key in metadata and metadata[key] != values.get("head_dim"):
            expected = f"{values.get('head_dim')}, as attention.key_length"
            raise ConfigError(f"GGUF: {key}", got=shown(metadata[key]), expected=expected)


def _scaling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: metadata[key] for key, name in _ROPE.items() if key in metadata}
    if found.get("rope_type") == "none":
        return {}
    if "original_max_position_embeddings" not in found and "factor" in found:
        found["original_max_position_embeddings"] = metadata.get("context_length")
    return {name: decimal(v) if isinstance(v, float) else v for name, v in found.items()}


def decimal(value: Any) -> Any:
    """The decimal of seven digits nearest to a float32: 1e-06 for 9.999999974752427e-07."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def float_type(tensors: Sequence[GgufTensor]) -> str:
    """The type for the model's floats: that of its float matrices if it is unique, else BF16.

    llama.cpp always stores vectors and routers in F32, so these don't count.
    """
    kinds = {t.type for t in tensors if len(t.shape) > 1 and "ffn_gate_inp" not in t.name}
    return kinds.pop() if len(kinds) == 1 and kinds <= set(FLOATS) else "BF16"


def bits_of(kind: str) -> int:
    """The bits per weight in which the loader stores a packed type."""
    return EXACT_BITS.get(kind, OTHER_BITS)


def as_loaded(
    tensors: Sequence[GgufTensor],
) -> Iterator[tuple[GgufTensor, str, str, tuple[int, ...]]]:
    """The tensors that the loader makes of each: kind (weight, scales, biases), dtype and shape.

    Types of `EXACT_BITS` are repacked without loss; others are quantized to 8 bits, which adds a
    sixteenth of Q6_K's own error.
    """
    floats = float_type(tensors)
    for tensor in tensors:
        *lead, columns = tensor.shape
        if tensor.type in FLOATS:
            yield tensor, "weight", floats, tensor.shape
            continue
        yield tensor, "weight", "U32", (*lead, columns * bits_of(tensor.type) // 32)
        for kind in ("scales", "biases"):
            yield tensor, kind, floats, (*lead, columns // GROUP)


def _quantization(shapes: Mapping[str, GgufTensor]) -> dict[str, Any]:
    """MLX's ``quantization`` block for the packed matrices of the loaded model."""
    return {
        path: {"bits": bits_of(tensor.type), "group_size": GROUP}
        for path, tensor in sorted(shapes.items())
        if tensor.type not in FLOATS
    }
