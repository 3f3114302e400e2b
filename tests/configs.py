"""Configurations for tests: what Qwen3's releases say, to be changed in one place or another."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import ConfigError

Values = dict[str, Any]

DENSE: Values = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MOE: Values = DENSE | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
YARN: Values = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
QUANTIZED: Values = {"group_size": 64, "bits": 4}


def read(values: Values, **changes: Any) -> Qwen3Config:
    """Return the configuration that `values` with `changes` describe."""
    return Qwen3Config.from_dict(values | changes)


def refused(values: Values, *words: str) -> str:
    """Return the message with which `values` are refused; it holds all of `words`."""
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dict(values)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    return message


def new_spelling(values: Values) -> Values:
    """Return the same configuration as transformers 5 would write it."""
    new = {k: v for k, v in values.items() if k not in ("rope_theta", "rope_scaling")}
    rope = values.get("rope_scaling") or {"rope_type": "default"}
    new["rope_parameters"] = {"rope_theta": values["rope_theta"], **rope}
    new["dtype"] = new.pop("torch_dtype")
    if new["model_type"] == "qwen3":
        new["layer_types"] = ["full_attention"] * new["num_hidden_layers"]
    else:
        new["num_local_experts"] = new.pop("num_experts")
    return new
