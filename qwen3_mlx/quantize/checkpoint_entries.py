"""Which entries of a directory belong to a checkpoint, and whether they make one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from qwen3_mlx.files import read_small
from qwen3_mlx.quantize.plan import COPIED, INDEX

RECORD = "conversion.json"
"""The result's file that records the source, the recipe and the measurements."""
CONFIG = "config.json"

_HUB = (
    ".gitattributes",
    "configuration.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quant_config.json",
    "quantize_config.json",
    "recipe.yaml",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
)
_NAMES = frozenset((CONFIG, RECORD, INDEX, "README.md", *COPIED, *_HUB))
_WEIGHTS = re.compile(r"model(-\d+-of-\d+|-share-\d+-of-\d+)?\.safetensors")


def is_litter(entry: Path) -> bool:
    """Whether macOS put the file there by itself: it counts as absent."""
    name = entry.name
    named = name == ".DS_Store" or name.startswith("._")
    return named and entry.is_file() and not entry.is_symlink()


def entries_of(directory: Path) -> list[Path]:
    """The entries of `directory`, sorted, without litter. Raises `OSError`."""
    return sorted(entry for entry in directory.iterdir() if not is_litter(entry))


def foreign_entry(directory: Path) -> str | None:
    """What in `directory` is no part of a checkpoint, as text, or None. Raises `OSError`."""
    for entry in entries_of(directory):
        if not _belongs(entry):
            return f"{entry.name}{'/' if entry.is_dir() else ''} in it"
    return None


def lacking(directory: Path) -> str | None:
    """What keeps a `directory` without foreign entries from being a checkpoint, or None.

    An empty one lacks nothing, nor does one with a conversion's record. Raises `OSError`.
    """
    names = {entry.name for entry in entries_of(directory)}
    if not names or RECORD in names:
        return None
    if CONFIG not in names:
        return f"neither {CONFIG} nor {RECORD} in it"
    if not _is_config(directory / CONFIG):
        return f"a {CONFIG} of no model in it"
    if not any(map(_WEIGHTS.fullmatch, names)):
        return "no weights in it"
    return None


def record_of(directory: Path) -> dict[str, Any]:
    """The record of the conversion that made `directory`; empty without a whole one."""
    try:
        found = json.loads(read_small(directory / RECORD).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def final_name(name: str) -> str:
    """The name that a file which a killed process left would have got, or just `name`."""
    unfinished = name.startswith(".") and name.endswith(".part")
    return name[1:].removesuffix(".part") if unfinished else name


def _belongs(entry: Path) -> bool:
    if entry.name == ".cache":
        return _is_hub_cache(entry)
    name = final_name(entry.name)
    return entry.is_file() and (name in _NAMES or _WEIGHTS.fullmatch(name) is not None)


def _is_hub_cache(entry: Path) -> bool:
    """Whether ``hf download --local-dir`` made it."""
    if entry.is_symlink() or not entry.is_dir():
        return False
    return {inner.name for inner in entries_of(entry)} <= {"huggingface"}


def _is_config(file: Path) -> bool:
    try:
        values = json.loads(read_small(file).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and bool({"model_type", "architectures"} & set(values))
