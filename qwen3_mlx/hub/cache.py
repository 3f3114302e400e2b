"""Reads the hub's cache on disk without ``huggingface_hub``, whose import takes half a second.

The documented layout: ``models--OWNER--NAME/refs/REVISION`` holds a commit, ``snapshots/COMMIT/``
its files, and ``trees/COMMIT.json`` (version 2) the repository's listing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from qwen3_mlx.errors import HubError
from qwen3_mlx.files import NOWHERE, expanded, read_small
from qwen3_mlx.gguf.model import models, split_names
from qwen3_mlx.hub.weight_files import INDEX, WHOLE, choose

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model")
"""The files of a model. Files that could hold code (``.bin``, ``.py``) are never fetched."""
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json")

DEFAULT_VARIANT = "Q4_K_M"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Source:
    """What a model's name refers to: a local path, or a repository on the hub."""

    path: Path | None = None
    repo: str = ""
    revision: str = "main"
    variant: str = ""
    """Selects one of the repository's GGUF models: part of its file name, such as ``Q4_K_M``."""


def cache_dir() -> Path:
    """The directory in which ``huggingface_hub`` stores snapshots."""
    env = os.environ.get
    if explicit := env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE"):
        return expanded(os.path.expandvars(explicit))
    cache = env("XDG_CACHE_HOME") or "~/.cache"
    home = expanded(os.path.expandvars(env("HF_HOME") or f"{cache}/huggingface"))
    return (NOWHERE if home.parts[:1] == ("~",) else home) / "hub"


def snapshot_dir(source: Source) -> Path | None:
    """The snapshot directory of a repository and revision, perhaps incomplete; None without."""
    base = cache_dir() / f"models--{source.repo.replace('/', '--')}"
    commit = source.revision
    if not _COMMIT.fullmatch(commit):
        try:
            commit = read_small(base / "refs" / source.revision).decode("utf-8").strip()
        except (OSError, ValueError):
            return None
    snapshot = base / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def complete_snapshot(source: Source) -> Path | None:
    """The snapshot directory of a repository if it has all files of the model, else None."""
    snapshot = snapshot_dir(source)
    if snapshot is None:
        return None
    is_gguf = bool(source.variant) or not (snapshot / "config.json").is_file()
    if is_gguf and _holds_gguf(snapshot, source):
        return snapshot
    return snapshot if not missing_files(snapshot) else None


def _holds_gguf(snapshot: Path, source: Source) -> bool:
    """Whether `snapshot` has all parts of the GGUF model that `source` selects."""
    try:
        names = gguf_names(snapshot)
        return set(split_names(gguf_choice(names, source))) <= set(names)
    except (OSError, HubError):
        return False


def gguf_names(snapshot: Path) -> list[str]:
    """The GGUF files of a snapshot, relative to it; large models have their own folders."""
    files = (file for file in snapshot.rglob("*.gguf") if file.is_file())
    return [str(file.relative_to(snapshot)) for file in files]


def gguf_choice(names: Collection[str], source: Source) -> str:
    """The first file, among `names`, of the GGUF model that `source` selects.

    Without a variant it is the only model, or that of `DEFAULT_VARIANT`, as in llama.cpp. Raises
    `HubError` if no model or several models match.
    """
    found = models(names)
    variant = source.variant or (DEFAULT_VARIANT if len(found) > 1 else "")
    pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(variant)}(?![A-Za-z0-9_])", re.IGNORECASE)
    chosen = [n for n in found if not variant or n == variant or pattern.search(n)]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(chosen or found) or "no .gguf file"
    hint = f"say which: {source.repo}:VARIANT, a part of the file's name such as {DEFAULT_VARIANT}"
    what = f"{source.repo}: no one GGUF model {variant}".rstrip()
    raise HubError(what, got=listed[:300], hint=hint)


def missing_files(snapshot: Path) -> list[str]:
    """The model's files that `snapshot` lacks; dangling links count as missing."""
    needed = {*REQUIRED, *_weight_files(snapshot), *_listed_files(snapshot)}
    if all((snapshot / name).is_file() for name in ("vocab.json", "merges.txt")):
        needed -= {"tokenizer.json"} - _listed_files(snapshot)  # these two can replace it
    return sorted(name for name in needed if not os.path.isfile(snapshot / name))  # noqa: PTH113 (bears any name)


def _weight_files(snapshot: Path) -> set[str]:
    """Names of the weight files, including missing ones."""
    indexed: list[str] | None = None
    try:
        index = json.loads(read_small(snapshot / INDEX).decode("utf-8-sig"))
        indexed = [str(name) for name in index["weight_map"].values()]
    except OSError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()  # a damaged index: the loader reports it better than a download would
    try:
        present = [entry.name for entry in snapshot.iterdir() if entry.is_file()]
    except OSError:
        present = []
    return set(choose(present, indexed).names) or {WHOLE}


def _listed_files(snapshot: Path) -> set[str]:
    """The model's files in the listing that the cache stores for the snapshot, if it does."""
    listing = snapshot.parent.parent / "trees" / f"{snapshot.name}.json"
    try:
        names = json.loads(read_small(listing).decode("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if any(fnmatch(name, pattern) for pattern in MODEL_FILES)}
