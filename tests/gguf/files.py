"""GGUF files written byte by byte (ggml's docs/gguf.md), and tiny Qwen3 models in them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.gguf import blocks
from tests.quantize.build import DENSE, MOE, Array, bf16, from_bf16, random_weights
from tests.tiny_tokenizer import tiny_backend

SMALL = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 256}
SMALL |= {"max_position_embeddings": 1024, "rope_theta": 1_000_000.0, "head_dim": 64}
DENSE_CONFIG = DENSE | SMALL
MOE_CONFIG = MOE | SMALL | {"moe_intermediate_size": 256}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10}
TYPES |= {"Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30}
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate": "ffn_gate_inp",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass
class Stored:
    """A tensor: type, shape ``[..., columns]``, bytes."""

    kind: str
    shape: tuple[int, ...]
    data: bytes


@dataclass
class Gguf:
    """A model's parts, to be written whole or in pieces."""

    metadata: dict[str, Any]
    tensors: dict[str, Stored]
    dense: dict[str, Array] = field(default_factory=dict)
    """The weights by Hugging Face's names, float32."""


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(x: Any) -> bytes:
    """A value behind its type's number."""
    if isinstance(x, bool):
        return struct.pack("<I?", 7, x)
    if isinstance(x, int):
        return struct.pack("<II", 4, x)
    if isinstance(x, float):
        return struct.pack("<If", 6, x)
    if isinstance(x, str):
        return struct.pack("<I", 8) + text(x)
    if x and isinstance(x[0], str):
        return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(text, x))
    return struct.pack("<IIQ", 9, 5, len(x)) + struct.pack(f"<{len(x)}i", *x)


def as_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, Stored], version: int = 3) -> bytes:
    """A whole file."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value(x) for key, x in metadata.items())
    at, bodies = 0, []
    for name, stored in tensors.items():
        sizes = stored.shape[::-1]
        head += text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        head += struct.pack("<IQ", TYPES[stored.kind], at)
        body = stored.data + bytes(-len(stored.data) % 32)
        at += len(body)
        bodies.append(body)
    return head + bytes(-len(head) % 32) + b"".join(bodies)


def write(model: Gguf, file: Path) -> Path:
    file.write_bytes(as_bytes(model.metadata, model.tensors))
    return file


def write_split(model: Gguf, folder: Path, count: int) -> list[Path]:
    """The model in `count` files, as llama.cpp's gguf-split makes them."""
    names, files = list(model.tensors), []
    for n in range(count):
        said = {"split.no": n, "split.count": count, "split.tensors.count": len(names)}
        mine = names[n * len(names) // count : (n + 1) * len(names) // count]
        file = folder / f"tiny-{n + 1:05d}-of-{count:05d}.gguf"
        metadata = model.metadata | said if n == 0 else said
        file.write_bytes(as_bytes(metadata, {name: model.tensors[name] for name in mine}))
        files.append(file)
    return files


def store(kind: str, x: Array, rng: np.random.Generator) -> tuple[Stored, Array]:
    """`x` as floats of the type `kind`, or random blocks in its shape; and what is stored."""
    if kind == "F32":
        return Stored(kind, x.shape, x.astype(np.float32).tobytes()), x.astype(np.float32)
    if kind == "F16":
        half = x.astype(np.float16)
        return Stored(kind, x.shape, half.tobytes()), half.astype(np.float32)
    if kind == "BF16":
        rounded = bf16(x)
        return Stored(kind, x.shape, rounded.bits.tobytes()), from_bf16(rounded)
    distinct, dense = few_blocks(kind)  # the slow decoder sees few, which come again
    count = x.size // blocks.SIZES[kind][0]
    places = (np.arange(count) + rng.integers(len(distinct))) % len(distinct)
    return Stored(kind, x.shape, distinct[places].tobytes()), dense[places].reshape(x.shape)


@cache
def few_blocks(kind: str) -> tuple[Array, Array]:
    """Some blocks and their weights. Their number divides no number of blocks in a row."""
    distinct = blocks.random_blocks(np.random.default_rng(len(kind)), kind, 29)
    return distinct, blocks.dense(kind, distinct)


Chooser = Callable[[str], str]


def model(config: Mapping[str, Any], choose: Chooser, template: str | None = TEMPLATE) -> Gguf:
    """A random model; `choose` gives the type for llama.cpp's name of a matrix."""
    rng = np.random.default_rng(5)
    weights = _stacked(random_weights(config), config)
    found = Gguf(metadata(config, template), {})
    for name, x in weights.items():
        theirs = llama_name(name)
        vector = x.ndim == 1 or "ffn_gate_inp" in theirs
        if vector:  # llama.cpp widens them: Qwen's are bfloat16
            x = from_bf16(bf16(x))
        stored, dense = store("F32" if vector else choose(theirs), x, rng)
        found.tensors[theirs] = stored
        found.dense |= _single(name, dense)
    return found


def llama_name(name: str) -> str:
    path = name.removesuffix(".weight")
    if not path.startswith("model.layers."):
        whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
        return f"{whole.get(path, 'output')}.weight"
    _, _, layer, module = path.split(".", 3)
    if stacked := module.startswith("mlp.experts."):
        module = f"mlp.{module.removeprefix('mlp.experts.')}"
    return f"blk.{layer}.{NAMES[module]}{'_exps' * stacked}.weight"


def _stacked(weights: Mapping[str, Array], config: Mapping[str, Any]) -> dict[str, Array]:
    """Experts in one array, under the name ``mlp.experts.gate_proj``."""
    found: dict[str, Array] = {}
    for name, x in weights.items():
        if ".experts." not in name:
            found[name] = x
        elif ".experts.0." in name:
            every = range(config["num_experts"])
            rows = [weights[name.replace(".experts.0.", f".experts.{e}.")] for e in every]
            found[name.replace(".experts.0.", ".experts.")] = np.stack(rows)
    return found


def _single(name: str, x: Array) -> dict[str, Array]:
    if ".experts." not in name:
        return {name: x}
    return {name.replace(".experts.", f".experts.{e}."): x[e] for e in range(len(x))}


def metadata(config: Mapping[str, Any], template: str | None) -> dict[str, Any]:
    """What llama.cpp's converter writes for a Qwen3."""
    arch = "qwen3moe" if config.get("num_experts") else "qwen3"
    said: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": "tiny",
        "general.license": "apache-2.0",
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": config["num_attention_heads"],
        f"{arch}.attention.head_count_kv": config["num_key_value_heads"],
        f"{arch}.attention.key_length": config["head_dim"],
        f"{arch}.attention.value_length": config["head_dim"],
        f"{arch}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{arch}.rope.freq_base": config["rope_theta"],
    }
    if arch == "qwen3moe":
        said[f"{arch}.expert_count"] = config["num_experts"]
        said[f"{arch}.expert_used_count"] = config["num_experts_per_tok"]
        said[f"{arch}.expert_feed_forward_length"] = config["moe_intermediate_size"]
    return (
        said
        | vocabulary(config["vocab_size"])
        | ({} if template is None else {"tokenizer.chat_template": template})
    )


def vocabulary(rows: int) -> dict[str, Any]:
    """The tiny tokenizer's, padded to the rows of the embedding."""
    backend = tiny_backend()
    described = json.loads(backend.to_str())
    ids = backend.get_vocab(with_added_tokens=True)
    tokens = [f"[PAD{n}]" for n in range(rows)]
    kinds = [5] * rows
    for token, number in ids.items():
        tokens[number], kinds[number] = token, 1
    for added in described["added_tokens"]:
        kinds[added["id"]] = 3 if added["content"].startswith("<|") else 4
    pairs = described["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [p if isinstance(p, str) else " ".join(p) for p in pairs],
        "tokenizer.ggml.eos_token_id": ids["<|im_end|>"],
        "tokenizer.ggml.padding_token_id": ids["<|endoftext|>"],
        "tokenizer.ggml.add_bos_token": False,
    }


def always(kind: str) -> Chooser:
    return lambda _name: kind


def k_m(name: str) -> str:
    """Types by turns, as llama.cpp's mixtures have them."""
    if "token_embd" in name or name == "output.weight":
        return "Q6_K"
    order: Sequence[str] = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q3_K", "Q2_K", "Q4_0", "IQ4_XS")
    return order[sum(map(ord, name)) % len(order)]


def size(model: Gguf) -> int:
    """Weights in all."""
    return sum(math.prod(stored.shape) for stored in model.tensors.values())
