"""Chooses a model's weight files, for directories and the hub's cache alike.

For a checkpoint split among machines (`qwen3_mlx.config.shares`) these are the present shares.
Otherwise in transformers' order: ``model.safetensors``, the files in the index, a set of numbered
shards, ``model*.safetensors``, any other safetensors, the GGUF files that a folder of ours links
to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_SHARE = re.compile(r"model-share-(\d{5})-of-(\d{5})\.safetensors")
_ADAPTER = re.compile(r"adapter.*|.*adapters?\.safetensors")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files to read, the missing ones, and the ignored ones."""

    names: tuple[str, ...]
    missing: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    """The ignored files with the reason: ``consolidated.safetensors: …``."""


def choose(present: Collection[str], indexed: Collection[str] | None = None) -> WeightFiles:
    """Choose among the file names `present`; `indexed` are the names in the index, if any."""
    # macOS writes AppleDouble files (._model.safetensors) to foreign file systems.
    found = sorted(n for n in present if n.endswith(".safetensors") and not n.startswith("."))
    if indexed is not None and WHOLE in found and WHOLE not in indexed:
        return _rest(found, (WHOLE,), f"a whole {WHOLE} wins", f"{INDEX}: names other files")
    if indexed is not None:
        names = sorted(set(indexed))
        missing = tuple(name for name in names if name not in present)
        chosen = _rest(found, tuple(names), "the index does not name it")
        return WeightFiles(chosen.names, missing, chosen.passed_over)
    if WHOLE in found:
        return _rest(found, (WHOLE,), f"a whole {WHOLE} wins")
    if shares := tuple(name for name in found if _SHARE.fullmatch(name)):
        return _rest(found, shares, "shares win")
    if sets := list(_shard_sets(found)):
        best = min(sets, key=lambda one: (len(one.missing), not one.names[0].startswith("model-")))
        chosen = _rest(found, best.names, f"not one of {len(best.names)} shards")
        return WeightFiles(best.names, best.missing, chosen.passed_over)
    models = tuple(name for name in found if name.startswith("model"))
    if models:
        return _rest(found, models, "model*.safetensors wins")
    others = tuple(name for name in found if not _ADAPTER.fullmatch(name))
    if not others:
        gguf = sorted(n for n in present if n.endswith(".gguf") and not n.startswith("."))
        return _rest(found, tuple(gguf), "an adapter is no model")
    return _rest(found, others, "an adapter is no model")


def _rest(found: list[str], names: tuple[str, ...], why: str, *more: str) -> WeightFiles:
    def reason(name: str) -> str:
        adapter = "a LoRA adapter, which is not applied" if _ADAPTER.fullmatch(name) else why
        return f"{name}: {adapter}"

    passed_over = [reason(name) for name in found if name not in names]
    return WeightFiles(names, (), (*passed_over, *more))


def _shard_sets(found: list[str]) -> Iterator[WeightFiles]:
    """The sets of files ``STEM-0000N-of-0000M``, one per stem and M."""
    matches = [match for name in found if (match := _SHARD.fullmatch(name))]
    for stem, total in sorted({(match[1], match[3]) for match in matches}):
        if not 1 <= int(total) <= 10_000:
            continue
        names = tuple(f"{stem}-{n:05d}-of-{total}.safetensors" for n in range(1, int(total) + 1))
        yield WeightFiles(names, tuple(name for name in names if name not in found))
