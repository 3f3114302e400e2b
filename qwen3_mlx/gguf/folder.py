"""Makes a model folder for a GGUF file: small files from its metadata, and links to the weights.

The rest of the package reads folders. This one is made once per file in the cache directory, and
can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import ConfigError, ModelNotFoundError, shown
from qwen3_mlx.files import own_folder
from qwen3_mlx.gguf import describe
from qwen3_mlx.gguf.model import GgufModel, models, read_model, split_names

_VERSION = 1
"""The version of the generated files; another number regenerates them."""
_PRETOKENIZERS = ("qwen2", "deepseek-r1-qwen", None)
"""llama.cpp's names for Qwen's pre-tokenizer."""
_NORMAL, _CONTROL, _USER = 1, 3, 4
_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
_SAMPLING |= {"penalty_repeat": "repetition_penalty"}


def is_gguf(path: Path) -> bool:
    """Whether `path` has the suffix of a GGUF file."""
    return path.suffix == ".gguf"


def only_gguf(directory: Path) -> bool:
    """Whether `directory` contains GGUF models and no safetensors."""
    try:
        names = [entry.name for entry in directory.iterdir()]
    except OSError:
        return False
    weights = any(n.endswith(".safetensors") and not n.startswith(".") for n in names)
    return not weights and bool(models(names))


def choose(names: list[str], where: str) -> str:
    """The only model among file `names`. Raises `ModelNotFoundError` unless there is one."""
    found = models(names)
    if len(found) != 1:
        listed = ", ".join(found[:8]) + (" …" if len(found) > 8 else "")
        hint = "name the file that you want"
        raise ModelNotFoundError(f"{where} holds {len(found)} GGUF models", got=listed, hint=hint)
    return found[0]


def of(path: Path) -> Path:
    """The folder for a GGUF file, or for the only GGUF model in the directory `path`.

    Raises `ModelNotFoundError`; `CheckpointError` or `ConfigError` for a damaged file or another
    architecture.
    """
    if path.is_dir():
        path = path / choose([entry.name for entry in path.iterdir()], str(path))
    files = [path.absolute().with_name(name) for name in split_names(path.name)]
    folder = own_folder("cache") / "gguf" / f"{path.stem}-{_key(files)}"
    if not (folder / "config.json").is_file():
        _write(read_model(files[0]), folder)
    return folder


def _key(files: list[Path]) -> str:
    digest = hashlib.sha256(str(_VERSION).encode())
    for file in files:
        if file.is_file():
            status = file.stat()
            digest.update(f"{file.resolve()}\n{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write(model: GgufModel, folder: Path) -> None:
    """Make the folder under a temporary name, then rename it."""
    texts = small_files(model)
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, text in texts.items():
            (part / name).write_text(text, "utf-8")
        for number, file in enumerate(model.files, 1):
            count = len(model.files)
            name = "model" if count == 1 else f"model-{number:05d}-of-{count:05d}"
            (part / f"{name}.gguf").symlink_to(file.resolve())
        if folder.exists():
            shutil.rmtree(folder)  # an incomplete one
        part.rename(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not (folder / "config.json").is_file():  # otherwise another process has made it
            raise


def small_files(model: GgufModel) -> dict[str, str]:
    """config.json, the tokenizer's files and a card, by name. Raises `ConfigError`."""
    metadata = model.metadata
    values = describe.config(model)
    tokens, kinds = _tokens(metadata)
    end = _id(metadata, "eos_token_id", tokens)
    values["eos_token_id"] = end
    if metadata.get(f"{metadata['general.architecture']}.pooling_type") == 3:
        values["architectures"] = ["Qwen3Model"]
    return {
        "vocab.json": _json({t: n for n, t in enumerate(tokens) if kinds[n] == _NORMAL}),
        "merges.txt": "\n".join(["#version: 0.2", *_merges(metadata), ""]),
        "tokenizer_config.json": _json(_tokenizer_config(metadata, tokens, kinds)),
        "generation_config.json": _json(_generation_config(metadata, tokens, end)),
        "README.md": _card(metadata),
        "config.json": _json(values),
    }


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1)


def _tokens(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """The vocabulary, and each token's type. Raises `ConfigError`."""
    model, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2" or split not in _PRETOKENIZERS:
        raise ConfigError(
            "GGUF: the tokenizer",
            got=f"model {shown(model)}, pre {shown(split)}",
            expected="model 'gpt2', pre 'qwen2'",
            hint="it is not one of Qwen3's",
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    kinds = metadata.get("tokenizer.ggml.token_type")
    sound = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    if not isinstance(tokens, list) or not sound:
        raise ConfigError("GGUF: tokenizer.ggml.tokens", got=type(tokens).__name__)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise ConfigError("GGUF: tokenizer.ggml.token_type", expected=f"{len(tokens)} numbers")
    return tokens, kinds


def _merges(metadata: Mapping[str, Any]) -> list[str]:
    merges = metadata.get("tokenizer.ggml.merges")
    pairs = merges if isinstance(merges, list) else None
    if pairs is None or any(not isinstance(m, str) or m.count(" ") != 1 for m in pairs):
        raise ConfigError("GGUF: tokenizer.ggml.merges", expected="pairs with a space between")
    return pairs


def _id(metadata: Mapping[str, Any], name: str, tokens: list[str]) -> int | None:
    """A token id of the metadata. Raises `ConfigError` for one beyond the vocabulary."""
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is not None and (type(value) is not int or not 0 <= value < len(tokens)):
        expected = f"below {len(tokens)}"
        raise ConfigError(f"GGUF: tokenizer.ggml.{name}", got=shown(value), expected=expected)
    return value


def _tokenizer_config(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]
) -> dict[str, Any]:
    added = {
        str(number): {"content": tokens[number], "special": kind == _CONTROL}
        for number, kind in enumerate(kinds)
        if kind in (_CONTROL, _USER)
    }
    values: dict[str, Any] = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        number = _id(metadata, f"{theirs}_token_id", tokens)
        values[f"{ours}_token"] = None if number is None else tokens[number]
    named = {"default": metadata.get("tokenizer.chat_template")}
    named["tool_use"] = metadata.get("tokenizer.chat_template.tool_use")
    templates = {name: text for name, text in named.items() if isinstance(text, str) and text}
    templates.setdefault("default", _own_template())
    if len(templates) == 1:
        values["chat_template"] = templates["default"]
    else:
        values["chat_template"] = [{"name": n, "template": t} for n, t in templates.items()]
    return values


def _own_template() -> str:
    """The bundled model's template, for files without one: turns, thoughts and calls as Qwen3's."""
    file = Path(__file__).parents[1] / "demo" / "tokenizer_config.json"
    return str(json.loads(file.read_text("utf-8"))["chat_template"])


def _generation_config(
    metadata: Mapping[str, Any], tokens: list[str], end: int | None
) -> dict[str, Any]:
    """generation_config.json: end tokens with ``<|endoftext|>``, as in Qwen's, and sampling."""
    text_end = next((n for n, token in enumerate(tokens) if token == "<|endoftext|>"), None)
    ends = dict.fromkeys(n for n in (end, text_end) if n is not None)
    values: dict[str, Any] = {"eos_token_id": list(ends)}
    for theirs, ours in _SAMPLING.items():
        if isinstance(value := metadata.get(f"general.sampling.{theirs}"), int | float):
            values[ours] = describe.decimal(value)
    return values


def _card(metadata: Mapping[str, Any]) -> str:
    """A card with the licence and the base model, if the metadata have them."""
    lines = []
    if isinstance(licence := metadata.get("general.license"), str):
        lines.append(f"license: {licence}")
    if isinstance(link := metadata.get("general.license.link"), str):
        lines.append(f"license_link: {link}")
    base = metadata.get("general.base_model.0.repo_url")
    if isinstance(base, str) and base.startswith("https://huggingface.co/"):
        lines.append(f"base_model: {base.removeprefix('https://huggingface.co/')}")
    return "\n".join(["---", *(line.replace("\n", " ") for line in lines), "---", ""])
