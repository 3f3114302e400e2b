"""Joins a model's GGUF files: all their tensors, and the first file's metadata."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.gguf.header import GgufFile, GgufTensor, read_file

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufModel:
    """All files of a model together."""

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def split_names(name: str) -> list[str]:
    """The names of all files of the model to which the file `name` belongs."""
    match = SPLIT.fullmatch(name)
    if match is None:
        return [name]
    count = int(match[3])
    if not 1 <= count <= 10_000:
        return [name]
    return [f"{match[1]}-{n:05d}-of-{match[3]}.gguf" for n in range(1, count + 1)]


def models(names: Collection[str]) -> list[str]:
    """The models among file `names`, by their first files; image projectors are left out."""
    found = {split_names(name)[0] for name in names if name.endswith(".gguf")}
    return sorted(n for n in found if not n.startswith(".") and not n.lower().startswith("mmproj"))


def read_model(file: Path) -> GgufModel:
    """The model to which `file` belongs. Raises `CheckpointError`."""
    files = tuple(file.with_name(name) for name in split_names(file.name))
    missing = [part.name for part in files if not part.is_file()]
    if missing:
        count = f"{len(missing)} of {len(files)} missing: {', '.join(missing[:5])}"
        raise CheckpointError("parts of the GGUF model are missing", got=count)
    return join(files, [read_file(part) for part in files])


def join(files: Sequence[Path], headers: Sequence[GgufFile]) -> GgufModel:
    """The model of these files. Raises `CheckpointError` unless they belong together."""
    metadata = headers[0].metadata
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise CheckpointError(f"{files[0].name}: a tensor stands twice", got="in several files")
    for number, header in enumerate(headers):
        split = header.metadata.get("split.no", number), header.metadata.get("split.count")
        if split not in ((number, len(files)), (number, None), (number, 0)):
            got = f"{files[number].name} says part {split[0]} of {split[1]} (from 0)"
            raise CheckpointError("the GGUF model's parts are not of one model", got=got)
    total = metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        got, expected = f"{len(tensors)} tensors", f"{total}, as split.tensors.count says"
        raise CheckpointError(
            "the GGUF model's parts are not of one model", got=got, expected=expected
        )
    return GgufModel(tuple(files), metadata, tensors)
