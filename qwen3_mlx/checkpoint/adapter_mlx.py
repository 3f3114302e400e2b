"""mlx-lm's adapters: ``lora_a``, ``lora_b`` by module path; adapter_config.json has the scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwen3_mlx.checkpoint.adapter_parts import (
    Pair,
    Shape,
    Update,
    both_halves,
    check_pair,
    no_such_modules,
    positive,
    refusal,
    targets,
    unsupported,
)
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config

_TENSOR = re.compile(r"(.+)\.(lora_a|lora_b)")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def read(
    values: Mapping[str, Any], tensors: Mapping[str, TensorInfo], config: Qwen3Config
) -> dict[str, Update]:
    """The adapter's updates by module path. Raises `ConfigError` or `CheckpointError`."""
    kind = values.get("fine_tune_type", "lora")
    if kind != "lora":
        hint = "DoRA is not applied: merge it with mlx_lm.fuse" if kind == "dora" else None
        hint = "its file holds whole weights, not an adapter" if kind == "full" else hint
        raise unsupported("fine_tune_type", kind, "'lora'", hint)
    settings = values.get("lora_parameters")
    if not isinstance(settings, dict):
        raise unsupported("lora_parameters", settings, "an object with rank and scale")
    rank = int(positive(settings, "rank", whole=True))
    scale: Any = settings.get("scale")
    if type(scale) not in (int, float) or not abs(scale) < 1e9:
        hint = "mlx-lm's scale is alpha / rank of other tools" if "alpha" in settings else None
        raise unsupported("lora_parameters.scale", scale, "a number", hint)
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        if (match := _TENSOR.fullmatch(name)) is None:
            raise refusal("the adapter has a tensor that is none of LoRA's", name, "lora_a, lora_b")
        found.setdefault(match[1], {})[match[2]] = info
    shapes = targets(config)
    if unknown := set(found) - set(shapes):
        raise no_such_modules(unknown, shapes)
    both_halves(found, ("lora_a", "lora_b"))
    _check_layers(values.get("num_layers"), settings.get("keys"), found, config)
    return {path: _update(path, shapes[path], found[path], scale, rank) for path in found}


def _update(
    path: str, shape: Shape, halves: Mapping[str, TensorInfo], scale: float, rank: int
) -> Update:
    *experts, rows, columns = shape
    a: Shape = (columns, rank)
    b: Shape = (rank, rows)
    if experts:
        a, b = (experts[0], rank, columns), (experts[0], rows, rank)
    layout = "stacked" if experts else "columns"
    pair = Pair(halves["lora_a"], halves["lora_b"], scale, layout)  # type: ignore[arg-type]  # a Layout
    check_pair(pair, a, b)
    return Update(path, shape, {None: pair})


def _check_layers(count: Any, keys: Any, found: Mapping[str, Any], config: Qwen3Config) -> None:
    """Raise unless the tensors are exactly those that ``num_layers`` and ``keys`` name."""
    layers = config.num_hidden_layers
    if type(count) is not int or count > layers:
        hint = "the adapter belongs to a model of more layers"
        raise unsupported("num_layers", count, f"at most {layers}", hint)
    first = layers - count if count > 0 else 0
    below = [p for p in found if (m := _LAYER.fullmatch(p)) and int(m[1]) < first]
    if below:
        raise refusal(
            "the adapter's tensors are not those of its num_layers",
            sorted(below)[0],
            f"the last {count} of {layers} layers",
        )
    if keys is None:
        return
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise unsupported("lora_parameters.keys", keys, "a list of module paths")
    inside = {(m[2] if (m := _LAYER.fullmatch(path)) else path) for path in found}
    if odd := inside ^ {key for key in keys if _exists(key, first, config)}:
        raise refusal("the adapter's tensors are not those of its keys", sorted(odd)[0], keys)


def _exists(key: str, first: int, config: Qwen3Config) -> bool:
    """Whether a linear layer of the adapted blocks, or of the network, has this path."""
    shapes = targets(config)
    inner = (f"model.layers.{n}.{key}" for n in range(first, config.num_hidden_layers))
    return key in shapes or any(path in shapes for path in inner)
