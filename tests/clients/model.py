"""A checkpoint for other people's programs: Qwen3's own texts, a context for long prompts, no size.

A coding agent's first prompt has 18,600 tokens. One narrow layer reads them in seconds, and takes
the paths that 36 wide ones take; what it says follows a script.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from qwen3_mlx.model import Qwen3, load
from tests.tiny import CONFIG, network

NAME = "scripted"
CONTEXT = 65_536
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write(directory: Path, tokenizer: Path, context: int) -> Path:
    """A tiny random checkpoint with the tokenizer of the folder `tokenizer`, or of its parent."""
    vocabulary = json.loads((tokenizer / TOKENIZER[0]).read_text("utf-8"))
    largest = max(token["id"] for token in vocabulary["added_tokens"])
    values = CONFIG | {
        "vocab_size": -(-(largest + 1) // 64) * 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
    }
    net, _ = network(0, **values)
    path = directory / NAME
    path.mkdir()
    (path / "config.json").write_text(json.dumps(values), "utf-8")
    mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(net.parameters())))
    for name in TOKENIZER:
        shutil.copyfile(tokenizer / name, path / name)
    return path


def loaded(directory: Path, tokenizer: Path, context: int = CONTEXT) -> Qwen3:
    """`write`, and load, under a name that says where nothing is."""
    return Qwen3(replace(load(write(directory, tokenizer, context)).runtime, name=NAME))
