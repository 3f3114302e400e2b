"""Checkpoints written bit by bit with NumPy: what the converter reads, from the formats' own words.

Nothing here uses MLX or the package: safetensors by its README, bfloat16 as the upper half of a
float32, and each packed format by its definition.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DENSE: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 1024,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
MOE: dict[str, Any] = DENSE | {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "tie_word_embeddings": False,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
CODES = {"float32": "F32", "float16": "F16", "uint8": "U8", "int32": "I32", "uint32": "U32"}
CODES |= {"int8": "I8", "int64": "I64"}


class Bits16:
    """bfloat16: the bits of an array that NumPy has no type for."""

    def __init__(self, bits: Array) -> None:
        self.bits = bits


class Codes8(Bits16):
    """float8_e4m3: the same."""


Stored = Array | Bits16


def bf16(x: Array) -> Bits16:
    """Round float32 to bfloat16, to nearest, ties to even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return Bits16(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


def from_bf16(x: Bits16) -> Array:
    return (x.bits.astype(np.uint32) << 16).view(np.float32)


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Qwen3 as Hugging Face names it, experts one by one."""
    c = config
    width, dim = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], width)}
    for i in range(c["num_hidden_layers"]):
        at, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        found |= {
            f"model.layers.{i}.input_layernorm.weight": (width,),
            f"{at}.q_proj.weight": (q, width),
            f"{at}.k_proj.weight": (kv, width),
            f"{at}.v_proj.weight": (kv, width),
            f"{at}.o_proj.weight": (width, q),
            f"{at}.q_norm.weight": (dim,),
            f"{at}.k_norm.weight": (dim,),
            f"model.layers.{i}.post_attention_layernorm.weight": (width,),
        }
        if c.get("num_experts"):
            found[f"{mlp}.gate.weight"] = (c["num_experts"], width)
            blocks = [f"{mlp}.experts.{e}" for e in range(c["num_experts"])]
            inner = c["moe_intermediate_size"]
        else:
            blocks, inner = [mlp], c["intermediate_size"]
        for block in blocks:
            found[f"{block}.gate_proj.weight"] = (inner, width)
            found[f"{block}.up_proj.weight"] = (inner, width)
            found[f"{block}.down_proj.weight"] = (width, inner)
    found["model.norm.weight"] = (width,)
    if not c["tie_word_embeddings"]:
        found["lm_head.weight"] = (c["vocab_size"], width)
    return found


def random_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Array]:
    """float32 weights of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            1 + 0.2 * rng.standard_normal(shape)
            if len(shape) == 1
            else rng.standard_normal(shape) / math.sqrt(shape[-1]) * (8 if "embed" in name else 1)
        ).astype(np.float32)
        for name, shape in shapes(config).items()
    }


def write_safetensors(file: Path, tensors: Mapping[str, Stored]) -> None:
    """One safetensors file, as its README describes it."""
    header: dict[str, Any] = {}
    offset, blobs = 0, []
    for name, value in tensors.items():
        array = value.bits if isinstance(value, Bits16) else value
        code = {Bits16: "BF16", Codes8: "F8_E4M3"}.get(type(value)) or CODES[str(array.dtype)]
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def write_model(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Stored], shards: int = 1
) -> Path:
    """A checkpoint directory: config.json, shards, and their index if there are several."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return directory
    names, places = list(tensors), {}
    for n in range(shards):
        file = f"model-{n + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[n * len(names) // shards : (n + 1) * len(names) // shards]
        write_safetensors(directory / file, {name: tensors[name] for name in mine})
        places |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def bf16_model(
    directory: Path, config: Mapping[str, Any] = DENSE, seed: int = 0, shards: int = 1
) -> Path:
    """A plain bfloat16 checkpoint with random weights."""
    weights = {name: bf16(x) for name, x in random_weights(config, seed).items()}
    return write_model(directory, config, weights, shards)


def read_safetensors(file: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and bytes by name."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + n for n in entry["data_offsets"])
        found[name] = (entry["dtype"], tuple(entry["shape"]), data[start:end])
    return found


def read_model(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """All tensors of a directory."""
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= read_safetensors(file)
    return found


def all_bytes(directory: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}
