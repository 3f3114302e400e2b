"""Plans all bytes that a conversion will write, before it reads a weight.

A plan follows from headers, config and recipe. The dry run, the disk check, the estimated time,
resuming and the card use it.

Layout: spaces pad a shard's header so that its tensors begin at a page of 16 KiB (Apple silicon's
page). Tensors whose size is a multiple of the page come first, so each begins at a page; the few
others (norms, a router's scales) follow, because the format allows no gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import header_bytes
from qwen3_mlx.checkpoint.raw import NAMES
from qwen3_mlx.config.matrices import parameters
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.config.recipes import Recipe
from qwen3_mlx.errors import CheckpointError, OptionError
from qwen3_mlx.quantize.formats import Source, Weight
from qwen3_mlx.quantize.output_config import output_config

PAGE = 16_384
SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)
"""Files that are copied unchanged; none can contain code."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of the result."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Item:
    """A weight, its packing, and the resulting tensors."""

    weight: Weight
    spec: QuantSpec | None
    stored: tuple[Stored, ...]
    """The weight, then its scales and biases if it is packed."""

    @property
    def nbytes(self) -> int:
        """Bytes of the resulting tensors."""
        return sum(tensor.nbytes for tensor in self.stored)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the result."""

    name: str
    paged: tuple[Item, ...]
    """Items whose weight fills whole pages; they come first."""
    rest: tuple[Item, ...]

    @property
    def late(self) -> list[Stored]:
        """Scales and biases of `paged` that don't fill pages; they come between the two."""
        found = [t for item in self.paged for t in item.stored[1:] if t.nbytes % PAGE]
        return sorted(found, key=lambda tensor: -_evenness(tensor.nbytes))

    def order(self) -> list[Stored]:
        """The tensors in the file's order."""
        first = [t for item in self.paged for t in item.stored if not t.nbytes % PAGE]
        return [*first, *self.late, *(t for item in self.rest for t in item.stored)]

    def header(self) -> bytes:
        """The safetensors header, padded to whole pages."""
        tensors = ((t.name, t.dtype, t.shape, t.nbytes) for t in self.order())
        return header_bytes(tensors, {"format": "mlx"}, align=PAGE)

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return len(self.header()) + sum(item.nbytes for item in (*self.paged, *self.rest))


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole conversion."""

    source: Source
    recipe: Recipe
    dtype: mx.Dtype
    shards: tuple[Shard, ...]

    @property
    def items(self) -> Iterable[Item]:
        """Every weight, shard by shard."""
        return (item for shard in self.shards for item in (*shard.paged, *shard.rest))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors of the result."""
        return sum(item.nbytes for item in self.items)

    @property
    def bits_per_weight(self) -> float:
        """Bits per parameter of the whole result, including norms, scales and biases."""
        return 8 * self.weight_bytes / parameters(self.source.config)

    def config(self) -> dict[str, Any]:
        """The result's config.json."""
        specs = {item.weight.path: item.spec for item in self.items}
        return output_config(self.source, self.dtype, specs)

    def index(self) -> dict[str, Any]:
        """The result's index of tensors and shards."""
        places = {t.name: shard.name for shard in self.shards for t in shard.order()}
        totals = {
            "total_size": self.weight_bytes,
            "total_parameters": parameters(self.source.config),
        }
        return {"metadata": totals, "weight_map": dict(sorted(places.items()))}

    def copied(self) -> list[Path]:
        """The source's files that are copied unchanged."""
        files = (self.source.directory / name for name in COPIED)
        return [file for file in files if file.is_file()]

    def files(self) -> dict[str, int]:
        """All files of the result except card and record, with their sizes in bytes."""
        sizes = {shard.name: shard.nbytes for shard in self.shards}
        sizes[INDEX] = len(as_json(self.index()))
        sizes |= {file.name: file.stat().st_size for file in self.copied()}
        return sizes | {"config.json": len(as_json(self.config()))}

    def digest(self) -> str:
        """A digest that, together with the source, determines the result's bytes."""
        value = [[shard.name, shard.header().decode("latin-1")] for shard in self.shards]
        return hashlib.sha256(as_json([value, self.config()])).hexdigest()


def as_json(value: Any) -> bytes:
    """JSON as all our files have it: indented by two, keys in the given order, a final newline."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate, as config.json may escape


def make_plan(
    source: Source,
    recipe: Recipe,
    *,
    dtype: mx.Dtype | None = None,
    allow_lossy: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """Plan a conversion.

    dtype: of stored floats, scales and biases; None keeps float16 and bfloat16 and stores float32
    as bfloat16. Raises `OptionError` or `CheckpointError`.
    """
    dtype = dtype or _dtype(source, recipe)
    items = [_item(weight, recipe, source, dtype) for weight in source.weights]
    if source.format == "mlx" and not allow_lossy and any(item.spec for item in items):
        raise OptionError(
            "the source is packed already",
            got=f"{source.directory}, {source.config.quantization or 'packed'}",
            expected="floats",
            hint="packing it again adds a second loss to the first: take the original, or say"
            " --allow-lossy",
        )
    return Plan(source, recipe, dtype, tuple(_shards(items, shard_bytes)))


def _dtype(source: Source, recipe: Recipe) -> mx.Dtype:
    if recipe.name == "bf16":
        return mx.bfloat16
    if source.dtype is None:
        raise CheckpointError(
            "the source mixes float types",
            got=source.dtypes(),
            expected="one",
            hint="say which to store: --dtype bfloat16 (or float16, float32)",
        )
    return mx.bfloat16 if source.dtype == mx.float32 else source.dtype


def _item(weight: Weight, recipe: Recipe, source: Source, dtype: mx.Dtype) -> Item:
    spec = recipe.spec(weight.path, source.config) if len(weight.shape) > 1 else None
    return Item(weight, spec, tuple(stored_as(weight.path, weight.shape, spec, dtype)))


def stored_as(
    path: str, shape: tuple[int, ...], spec: QuantSpec | None, dtype: mx.Dtype
) -> list[Stored]:
    """The tensors of a packed weight. Raises `OptionError` if groups don't divide its columns."""
    lead, columns = shape[:-1], shape[-1]
    if spec is None:
        return [_stored(f"{path}.weight", NAMES[dtype], shape)]
    if columns % spec.group_size:
        raise OptionError(
            f"{path} can't be packed in groups of {spec.group_size}",
            got=f"{columns} columns",
            expected=f"a multiple of {spec.group_size}",
            hint="a recipe file can give it a smaller group_size, or leave it in bf16",
        )
    groups = (*lead, columns // spec.group_size)
    packed = _stored(f"{path}.weight", "U32", (*lead, columns * spec.bits // 32))
    if spec.mode != "affine":
        return [packed, _stored(f"{path}.scales", "U8", groups)]
    constants = (_stored(f"{path}.{kind}", NAMES[dtype], groups) for kind in ("scales", "biases"))
    return [packed, *constants]


_BYTES: Mapping[str, int] = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "U32": 4}


def _stored(name: str, dtype: str, shape: tuple[int, ...]) -> Stored:
    return Stored(name, dtype, shape, math.prod(shape) * _BYTES[dtype])


def _shards(items: list[Item], limit: int) -> Iterable[Shard]:
    """Fill shards in the network's order; a weight larger than the limit has its own shard."""
    groups: list[list[Item]] = []
    size = 0
    for item in items:
        if not groups or size + item.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += item.nbytes
    for number, group in enumerate(groups, 1):
        one = len(groups) == 1
        name = "model" if one else f"model-{number:05d}-of-{len(groups):05d}"
        paged = [item for item in group if not item.stored[0].nbytes % PAGE]
        rest = [item for item in group if item.stored[0].nbytes % PAGE]
        rest.sort(key=lambda item: -_evenness(item.nbytes))
        yield Shard(f"{name}.safetensors", tuple(paged), tuple(rest))


def _evenness(size: int) -> int:
    """The largest power of two that divides `size`, which aligns the next tensor."""
    return size & -size
