"""The models that the corpus of folders is made of: tiny, random, built once and held in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.quantize.build import Bits16, Stored, bf16, random_weights, write_safetensors
from tests.tiny_tokenizer import tiny_backend

Values = dict[str, Any]
Tensors = dict[str, Stored]

LOADS, CONVERTS = "loads", "converts"
INDEX = "model.safetensors.index.json"
SHARD = "model-{:05d}-of-{:05d}.safetensors"

DENSE: Values = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 1024,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
UNTIED = DENSE | {"tie_word_embeddings": False}
MOE: Values = UNTIED | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
CONFIGS = {"dense": DENSE, "untied": UNTIED, "moe": MOE}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@cache
def weights(base: str) -> Tensors:
    """The tensors of a base under Hugging Face's names, bfloat16."""
    return {name: bf16(x) for name, x in random_weights(CONFIGS[base]).items()}


@cache
def tokenizer_json() -> str:
    """tokenizer.json of 280 tokens or so."""
    return str(tiny_backend().to_str())


class Model:
    """A model's files, to be changed and then written."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.config = dict(CONFIGS[base])
        self.tensors = dict(weights(base))
        self.jsons: dict[str, Any] = {
            "tokenizer_config.json": {"chat_template": TEMPLATE, "eos_token": "<|im_end|>"},
            "generation_config.json": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
        }
        self.files: dict[str, str | bytes] = {"tokenizer.json": tokenizer_json()}
        self.shards: dict[str, Tensors] | None = None
        """The weights' files; all in ``model.safetensors`` unless told."""

    def split(self, count: int = 2) -> None:
        """Put the tensors into shards, with an index."""
        names, places = list(self.tensors), {}
        self.shards = {}
        for n in range(count):
            mine = names[n * len(names) // count : (n + 1) * len(names) // count]
            file = SHARD.format(n + 1, count)
            self.shards[file] = {name: self.tensors[name] for name in mine}
            places |= dict.fromkeys(mine, file)
        self.jsons[INDEX] = {"metadata": {"total_size": 1}, "weight_map": places}

    def write(self, folder: Path) -> None:
        """Write all of it."""
        folder.mkdir(parents=True, exist_ok=True)
        shards = {"model.safetensors": self.tensors} if self.shards is None else self.shards
        for name, tensors in shards.items():
            write_safetensors(folder / name, tensors)
        texts = {"config.json": self.config} | self.jsons
        for name, values in texts.items():
            (folder / name).write_text(json.dumps(values), "utf-8")
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            (folder / name).write_bytes(data)


Change = Callable[[Model], object]
"""What a tool writes otherwise; done before the model is written."""
Afterwards = Callable[[Path], object]
"""What then happens to the folder."""


class Folder(NamedTuple):
    """A model's folder: the tool that writes it, what is special, and what becomes of it."""

    name: str
    tool: str
    base: str
    change: Change = lambda model: None
    afterwards: Afterwards = lambda folder: None
    outcome: str = LOADS
    """`LOADS`, `CONVERTS`, or words of the reason why it is refused."""
    same: bool = True
    """Whether it computes what the base does."""
    found: str = ""
    """Words of what the checker says of it, if it says anything."""

    def write(self, folder: Path) -> Path:
        """Make it; returns where the model lies."""
        model = Model(self.base)
        self.change(model)
        model.write(folder)
        return found if isinstance(found := self.afterwards(folder), Path) else folder


def shape_of(stored: Stored) -> tuple[int, ...]:
    """Of an array, or of bits."""
    return tuple((stored.bits if isinstance(stored, Bits16) else stored).shape)
