"""The kind of a model: chat, embedder or reranker.

Qwen3-Embedding and Qwen3-Reranker have the same network as the chat models; only the other files
or the name distinguish them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from qwen3_mlx.errors import ConfigError, OptionError
from qwen3_mlx.files import read_json, read_small

Kind = Literal["chat", "embedder", "reranker"]
_NAME = re.compile(r"qwen3[-_]?(embedding|reranker)", re.IGNORECASE)
_BASE = re.compile(r"^base_model:[ \t]*\n?[- \t\"']*([\w./-]+)", re.MULTILINE)


def of_name(name: str) -> Kind:
    """The kind by a repository's or directory's name; ``chat`` by default."""
    match = _NAME.search(name)
    if match is None:
        return "chat"
    return "embedder" if match[1].lower() == "embedding" else "reranker"


def of_directory(directory: Path) -> Kind:
    """The kind by the files in `directory`, its name and its card.

    In this order: sentence-transformers' modules.json with a pooling, an architecture without a
    head or with a classification head, the name (in the hub's cache the repository's), the card's
    ``base_model``.
    """
    if _pools(directory):
        return "embedder"
    try:
        architectures = read_json(directory / "config.json").get("architectures")
    except ConfigError:
        architectures = None  # loading the model reports the error
    if architectures == ["Qwen3Model"]:
        return "embedder"
    if architectures == ["Qwen3ForSequenceClassification"]:
        return "reranker"
    absolute = directory.absolute()
    snapshot = absolute.parent.name == "snapshots"
    named = of_name(absolute.parents[1].name if snapshot else absolute.name)
    return named if named != "chat" else of_name(_base_model(directory / "README.md"))


def _pools(directory: Path) -> bool:
    try:
        modules: Any = json.loads(read_small(directory / "modules.json").decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(modules, list):
        return False
    kinds = (module.get("type") for module in modules if isinstance(module, dict))
    return any(isinstance(kind, str) and kind.endswith("Pooling") for kind in kinds)


def _base_model(card: Path) -> str:
    try:
        text = read_small(card).decode("utf-8")
    except (OSError, ValueError):
        return ""
    front = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = _BASE.search(front)
    return found[1] if found else ""


def check_writes_text(kind: Kind, name: str) -> None:
    """Raise `OptionError` for an embedder, which can't write text."""
    if kind == "embedder":
        raise OptionError(
            "this model turns texts into vectors and writes none",
            got=name,
            expected="a model that chats, such as 4b",
            hint="its vectors: qwen3-mlx embed, or model.embed(texts)",
        )


def check_judges(kind: Kind, name: str) -> None:
    """Raise `OptionError` for an embedder, which can't answer yes or no."""
    if kind == "embedder":
        raise OptionError(
            "this model turns texts into vectors and judges none",
            got=name,
            expected="a reranker, such as rerank-0.6b",
            hint="compare its vectors instead: model.embed(texts), then their products",
        )
