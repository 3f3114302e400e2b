"""Tiny models for tests: random networks, a whole runtime, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
from mlx.utils import tree_map_with_path

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.text import ChatTemplate, Tokenizer
from tests.tiny_tokenizer import tiny_backend

TEMPLATE = Path(__file__).parent / "golden" / "hybrid_template.jinja"

OPENER = "{%- if add_generation_prompt %}{{- '<think>\\n' }}{%- endif %}"

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 1024,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}


def network(seed: int, **changes: Any) -> tuple[Qwen3Network, Qwen3Config]:
    """A random float32 network whose greedy output wanders instead of repeating itself."""
    config = Qwen3Config.from_dict(CONFIG | changes)
    mx.random.seed(seed)
    net = Qwen3Network(config)

    def spread(path: str, weight: mx.array) -> mx.array:
        if "norm" in path:
            return 1 + 0.2 * mx.random.normal(weight.shape)
        return mx.random.normal(weight.shape) * (2.0 if "embed" in path else 0.4)

    net.update(tree_map_with_path(spread, net.parameters()))
    mx.eval(net.parameters())
    choose_backend(net)
    return net, config


def tokenizer() -> Tokenizer:
    """The smallest byte-level tokenizer with Qwen3's markers."""
    backend = tiny_backend()
    return Tokenizer(backend, [backend.token_to_id("<|endoftext|>")])


def runtime(seed: int = 0, *, opened: bool = False, **changes: Any) -> Runtime:
    """A whole model: a hybrid, or one whose template opens the thought, as 2507's does."""
    tokens = tokenizer()
    net, config = network(seed, **({"vocab_size": tokens.vocab_size} | changes))
    source = TEMPLATE.read_text("utf-8")
    template = ChatTemplate(source + OPENER if opened else source)
    return Runtime(
        "tiny", net, config, tokens, template, template.family, template.thinks_by_default
    )
