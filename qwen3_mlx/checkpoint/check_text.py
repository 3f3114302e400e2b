"""Checks of the tokenizer's files, the template and generation_config.json."""

from __future__ import annotations

from collections.abc import Iterator

from qwen3_mlx.checkpoint.model_files import Files, Finding, pairs
from qwen3_mlx.errors import OptionError, TemplateError, brief
from qwen3_mlx.files import read_small
from qwen3_mlx.options import preset, with_generation_config

_GENERATION = "generation_config.json"


def tokenizer(files: Files) -> Iterator[Finding]:
    """There is one; ids must be inside the embedding, and the same in both files."""
    from qwen3_mlx.text import Tokenizer

    if files.stored and not Tokenizer.is_there(files.directory):
        text = "no tokenizer.json, nor vocab.json and merges.txt: it can't read a word"
        yield Finding("warning", text)
    ids, size = files.token_ids, files.config.vocab_size
    if ids and max(ids.values()) >= size:
        last = max(ids, key=lambda token: ids[token])
        text = f"{last!r} is token {ids[last]}, config.json has vocab_size {size}"
        yield Finding("error", f"tokenizer.json: {text}")
    values = files.json("tokenizer_config.json")
    for key, token in pairs(values.get("added_tokens_decoder")):
        name = token.get("content") if isinstance(token, dict) else None
        if ids and isinstance(name, str) and str(ids.get(name)) != str(key):
            text = f"{name!r} is token {key}, in tokenizer.json {ids.get(name)}"
            yield Finding("error", f"tokenizer_config.json: {text}")
    longest = values.get("model_max_length")
    if type(longest) is int and longest < files.config.native_context:
        text = f"model_max_length {longest}, config.json has {files.config.native_context}"
        yield Finding("note", f"tokenizer_config.json: {text}")


def ends(files: Files) -> Iterator[Finding]:
    """The end-of-turn tokens in three files must exist and agree."""
    ids, size = files.token_ids, files.config.vocab_size
    named: dict[str, set[int]] = {}
    for source in ("config.json", _GENERATION):
        value = files.json(source).get("eos_token_id")
        listed = [] if value is None else value if isinstance(value, list) else [value]
        named[source] = {n for n in listed if type(n) is int and n >= 0}
        if len(named[source]) < len(set(map(repr, listed))):
            # The loader reads config.json's only where generation_config.json has none.
            text = f"{source}: eos_token_id: got {brief(value)}, expected token ids"
            read = source != "config.json" or not files.json(_GENERATION).get("eos_token_id")
            yield Finding("error" if read else "warning", text)
    token = files.json("tokenizer_config.json").get("eos_token")
    name = token.get("content") if isinstance(token, dict) else token
    if isinstance(name, str) and ids:
        if name not in ids:
            yield Finding("error", f"tokenizer_config.json: eos_token {name!r} is no token")
        else:
            named["tokenizer_config.json"] = {ids[name]}
    for file, ends in named.items():
        if beyond := [n for n in ends if n >= size or (ids and n not in set(ids.values()))]:
            yield Finding("error", f"{file}: eos_token_id {beyond[0]} is no token")
    values = {file: ends for file, ends in named.items() if ends}
    if values and not set.intersection(*values.values()):
        text = ", ".join(f"{file} {sorted(ends)}" for file, ends in values.items())
        yield Finding("warning", f"the files name different tokens as the end: {text}")


def template(files: Files) -> Iterator[Finding]:
    """A chat template must be one that can be read, and two must not differ."""
    from qwen3_mlx.text import ChatTemplate

    try:
        if ChatTemplate.is_declared(files.directory):
            ChatTemplate.from_dir(files.directory)
    except TemplateError as error:
        yield Finding("warning", error.summary)
    file, values = files.directory / "chat_template.jinja", files.json("tokenizer_config.json")
    inside = values.get("chat_template")
    if file.is_file() and isinstance(inside, str):
        text = read_small(file).decode("utf-8", "replace")
        if text.strip() != inside.strip():
            text = "chat_template.jinja and tokenizer_config.json hold different templates"
            yield Finding("warning", f"{text}: the file wins")


def sampling(files: Files) -> Iterator[Finding]:
    """The sampling settings must be valid and consistent."""
    values = files.json(_GENERATION)
    try:
        with_generation_config(preset("instruct", False), values)
    except OptionError as error:
        yield Finding("error", error.summary)
    if values.get("do_sample") is False and values.get("temperature") not in (None, 0, 0.0, 1, 1.0):
        text = f"do_sample false and temperature {values['temperature']}"
        yield Finding("note", f"generation_config.json: {text}: greedy")
