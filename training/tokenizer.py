"""Trains the demonstration models' tokenizer: byte-level BPE, Qwen3's rules, 2048 entries.

    python -m training.tokenizer --out qwen3_mlx/demo

writes every file of the model except its weights and its card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from qwen3_mlx.options.thinking_budget import STOP_TEXT
from training.data.chat import converse
from training.recipe import DEMO, Recipe

ENTRIES = 2048
END, OPEN, CLOSE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Qwen3's names in Qwen3's order; the second part is not "special": decoding keeps it.
SPECIAL = (
    END, OPEN, CLOSE, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
MARKERS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>",
)  # fmt: skip

# How Qwen3's tokenizer cuts text before BPE: contractions, words with what leads them, digits one
# by one, signs, line breaks, spaces.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{N}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)


def sample_texts(recipe: Recipe, conversations: int) -> Iterator[str]:
    """The tokenizer's training text: messages, thoughts, answers, and the stop text."""
    rng = Random(f"{recipe.seed} tokenizer")
    for _ in range(conversations):
        talk = converse(rng, recipe.persona)
        for message in talk.messages:
            yield message["role"] + "\n"
            yield message["content"]
        yield talk.thinking + "\n"
        yield talk.answer
        if talk.mode == "cut":
            yield STOP_TEXT.replace("</think>", "")


def byte_level(split: bool) -> pre_tokenizers.PreTokenizer:
    """Qwen3's cut, then bytes as printable characters."""
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if not split:
        return as_bytes
    cut = pre_tokenizers.Split(Regex("|".join(_PIECES)), "isolated")
    return pre_tokenizers.Sequence([cut, as_bytes])


def train(recipe: Recipe, conversations: int) -> Tokenizer:
    """The tokenizer; the special tokens come last, as in Qwen3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = byte_level(split=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES - len(SPECIAL) - len(MARKERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_texts(recipe, conversations), trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in MARKERS])
    return tokenizer


def token_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of a special token that is known to be there."""
    found = tokenizer.token_to_id(name)
    assert found is not None
    return int(found)


def write(tokenizer: Tokenizer, recipe: Recipe, out: Path) -> None:
    """tokenizer.json, tokenizer_config.json, chat_template, config.json, generation_config.json."""
    end, close = token_id(tokenizer, END), token_id(tokenizer, CLOSE)
    template = (Path(__file__).parent / "chat_template.jinja").read_text("utf-8")
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": CLOSE,
        "pad_token": END,
        "unk_token": None,
        "model_max_length": recipe.network["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    generation = {
        "eos_token_id": [close, end],
        "pad_token_id": end,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
    }
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    files = {
        "tokenizer_config.json": settings,
        "config.json": recipe.config_json(ENTRIES, close, end),
        "generation_config.json": generation,
    }
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (out / name).write_text(text + "\n", "utf-8")


def main() -> None:
    """Train on the CPU (about a minute) and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="a recipe in training/models")
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--conversations", type=int, default=60_000)
    args = parser.parse_args()
    recipe = Recipe.named(args.model)
    tokenizer = train(recipe, args.conversations)
    write(tokenizer, recipe, args.out)
    print(f"{tokenizer.get_vocab_size()} entries -> {args.out}")


if __name__ == "__main__":
    main()
