"""Folders by their text side: tokenizers, templates and generation_config.json as tools write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.corpus.bases import TEMPLATE, Folder, Model

CHATML = (
    "{% for m in messages %}{{'<|im_start|>'+m['role']+'\\n'+m['content']+'<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n'}}{% endif %}"
)


def values(file: str, **changes: Any) -> Callable[[Model], None]:
    """Some keys of a JSON file; None takes one away."""

    def change(model: Model) -> None:
        kept = model.jsons.get(file, {}) | changes
        model.jsons[file] = {key: x for key, x in kept.items() if x is not None}

    return change


def tokenizer_part(**changes: Any) -> Callable[[Model], None]:
    """Some keys of tokenizer.json."""

    def change(model: Model) -> None:
        read = json.loads(model.files["tokenizer.json"])
        model.files["tokenizer.json"] = json.dumps(read | changes)

    return change


def taken_apart(model: Model) -> None:
    """vocab.json and merges.txt in the place of tokenizer.json."""
    read = json.loads(model.files.pop("tokenizer.json"))
    names = {token["content"] for token in read["added_tokens"]}
    vocabulary = {name: n for name, n in read["model"]["vocab"].items() if name not in names}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in read["model"]["merges"]]
    model.files["vocab.json"] = json.dumps(vocabulary)
    model.files["merges.txt"] = "#version: 0.2\n" + "\n".join(merges) + "\n"
    added = {
        str(token["id"]): {key: x for key, x in token.items() if key != "id"}
        for token in read["added_tokens"]
    }
    values("tokenizer_config.json", added_tokens_decoder=added)(model)


def merges_as_texts(model: Model) -> None:
    read = json.loads(model.files["tokenizer.json"])
    merges = read["model"]["merges"]
    read["model"]["merges"] = [x if isinstance(x, str) else " ".join(x) for x in merges]
    model.files["tokenizer.json"] = json.dumps(read)


def without(*files: str) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        for name in files:
            model.jsons.pop(name, None)
            model.files.pop(name, None)

    return change


def template(text: str | list[dict[str, str]] | None, jinja: str | None = None) -> Any:
    """What tokenizer_config.json has for a template, and chat_template.jinja beside it."""

    def change(model: Model) -> None:
        values("tokenizer_config.json", chat_template=text)(model)
        if jinja is not None:
            model.files["chat_template.jinja"] = jinja

    return change


def more_tokens(count: int) -> Callable[[Model], None]:
    """Tokens added behind the last one."""

    def change(model: Model) -> None:
        read = json.loads(model.files["tokenizer.json"])
        first = max(token["id"] for token in read["added_tokens"]) + 1
        like = read["added_tokens"][-1]
        read["added_tokens"] += [
            {**like, "id": first + n, "content": f"<|new {n}|>"} for n in range(count)
        ]
        model.files["tokenizer.json"] = json.dumps(read)

    return change


TRUNCATION = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}
ADDED = {"content": "<|im_end|>", "lstrip": False, "normalized": False, "rstrip": False}
NAMED = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": CHATML}]


def tokenizers() -> Iterator[Folder]:
    """How the tokenizer is saved."""
    config = "tokenizer_config.json"
    good: dict[str, tuple[str, Any]] = {
        "vocab and merges": ("LlamaFactory 0.9, slow tokenizer", taken_apart),
        "merges as texts": ("tokenizers 0.19", merges_as_texts),
        "truncation left on": ("sentence-transformers 4", tokenizer_part(truncation=TRUNCATION)),
        "padding left on": ("Unsloth 2025.5", tokenizer_part(padding=PADDING)),
        "eos as an object": ("transformers 4.30", values(config, eos_token=ADDED)),
        "a pad token": ("Unsloth 2025.9", values(config, pad_token="<|vision_pad|>")),
        "a class": ("transformers 4.51", values(config, tokenizer_class="Qwen2Tokenizer")),
        "extra tokens as a list": ("transformers 5", values(config, extra_special_tokens=["<a>"])),
        "a longest length of 1e30": ("transformers 4.51", values(config, model_max_length=10**30)),
        "new tokens": ("a fine-tune with markers", more_tokens(3)),
        "added_tokens.json": ("transformers 4.51", values("added_tokens.json", x=1)),
    }
    for title, (tool, change) in good.items():
        for base in ("dense", "moe"):
            yield Folder(f"{title}, {base}", tool, base, change)
    bad: dict[str, tuple[str, Any, str]] = {
        "no tokenizer_config": ("a copy by hand", without(config), "no chat template"),
        "more tokens than rows": ("files of two models", more_tokens(400), "vocab_size"),
        "no tokenizer": ("a copy of the weights", without("tokenizer.json"), "no tokenizer.json"),
        "a WordPiece": (
            "another model's",
            tokenizer_part(model={"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a"}),
            "tokenizer",
        ),
        "another decoder": ("another model's", tokenizer_part(decoder=None), "tokenizer"),
    }
    for title, (tool, change, said) in bad.items():
        yield Folder(title, tool, "dense", change, outcome=said)
    contradictions: dict[str, tuple[Any, str]] = {
        "a token elsewhere": (
            values(config, added_tokens_decoder={"3": {"content": "<|im_end|>"}}),
            "is token 3",
        ),
        "an end that is no token": (values(config, eos_token="</s>"), "'</s>' is no token"),
    }
    for title, (change, said) in contradictions.items():
        yield Folder(title, "files of two models", "dense", change, found=said)


def templates() -> Iterator[Folder]:
    """Where the chat template stands, and what it is."""
    good: dict[str, tuple[str, Any, str]] = {
        "a file": ("transformers 4.53", template(None, TEMPLATE), ""),
        "a file and the same inside": ("mlx-lm 0.24", template(TEMPLATE, TEMPLATE), ""),
        "a file and another inside": (
            "Unsloth, an older file left",
            template(CHATML, TEMPLATE),
            "different templates",
        ),
        "named": ("transformers 4.43", template(NAMED), ""),
        "plain ChatML": ("axolotl 0.9 chat_template: chatml", template(CHATML), ""),
    }
    for title, (tool, change, found) in good.items():
        yield Folder(f"template: {title}", tool, "dense", change, found=found)
    bad = {"damaged": "{% for", "of an unknown filter": "{{ messages | x }}", "an empty one": ""}
    for title, text in (bad | {"none, a base model": None}).items():
        change = template(text)
        yield Folder(f"template: {title}", "by hand", "dense", change, outcome="chat template")


def generation() -> Iterator[Folder]:
    """generation_config.json."""
    name = "generation_config.json"
    good: dict[str, tuple[str, dict[str, Any], str]] = {
        "Qwen's": ("Qwen", {"eos_token_id": None, "do_sample": True, "min_p": 0.0}, ""),
        "greedy with a temperature": ("mergekit", {"do_sample": False}, "greedy"),
        "a penalty": ("Qwen, Coder", {"repetition_penalty": 1.05}, ""),
        "keys of others": ("transformers 5", {"max_new_tokens": 2048, "num_beams": 1}, ""),
        "a cache": ("Unsloth 2025.5", {"max_length": 40960, "cache_implementation": None}, ""),
    }
    for title, (tool, changes, found) in good.items():
        yield Folder(f"generation: {title}", tool, "moe", values(name, **changes), found=found)
    yield Folder("generation: none", "mlx-lm 0.24", "moe", without(name))
    for key, bad in (("top_k", -1), ("top_p", 0), ("temperature", -1.0), ("top_p", "x")):
        change, said = values(name, **{key: bad}), f"generation_config.json: {key}"
        yield Folder(f"generation: {key} {bad}", "vLLM's habits", "dense", change, outcome=said)
    ends = values(name, eos_token_id=9999)
    yield Folder("generation: an end beyond", "another size", "dense", ends, found="9999")


def texts() -> Iterator[Folder]:
    """All of them."""
    yield from tokenizers()
    yield from templates()
    yield from generation()
