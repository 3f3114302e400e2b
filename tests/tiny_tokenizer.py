"""A byte-level tokenizer as small as can be, with Qwen3's markers: trained in milliseconds."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

MARKERS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is 17 * 23? Let me think.",
    '{"name": "add", "arguments": {"a": 1, "b": 2}}\n\n{"name": "f", "arguments": {}}',
    "你好，世界。你好吗？ مرحبا بالعالم 👩‍👩‍👧‍👦🎉🎉 Zürich Привет",
]


def tiny_backend(markers: Sequence[str] = MARKERS) -> Tokenizer:
    """256 bytes, some merges, then `markers` as added tokens."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    backend.add_tokens([AddedToken(marker, normalized=False) for marker in markers])
    return backend


def write_tiny_tokenizer(directory: Path, **files: object) -> Path:
    """tokenizer.json in `directory`, and one JSON file for each of `files`."""
    tiny_backend().save(str(directory / "tokenizer.json"))
    for name, values in files.items():
        (directory / f"{name}.json").write_text(json.dumps(values), "utf-8")
    return directory
