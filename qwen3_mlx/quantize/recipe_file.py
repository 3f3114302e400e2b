"""Reads a user's recipe from a TOML file.

name = "mine"                    # what the card calls it; the file's name if absent
about = "what it is for"
bound = 0.2                      # KL divergence above which it is not published
group_size = 64                  # for numbers below that stand alone
target = 4.8                     # optional: choose bits by measuring, as `dynamic` does

[bits]                           # class = bits, or a table, or "bf16"
default = 4
v = 6
expert_down = { bits = 4, group_size = 32 }
gate = { mode = "mxfp4" }
router = "bf16"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.config.recipes import CLASSES, RECIPES, Recipe, affine
from qwen3_mlx.errors import OptionError, shown
from qwen3_mlx.files import expanded, read_given

_KEYS = {"name": str, "about": str, "bound": (int, float), "target": (int, float)}
_FIXED = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}
_BITS, _GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)


def read(path: Path) -> Recipe:
    """Read and check a recipe file. Raises `OptionError` that names the key."""
    path = expanded(path)
    try:
        values = tomllib.loads(read_given(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = (error.strerror if isinstance(error, OSError) else None) or str(error)
        hint = "docs/convert.md has an example; qwen3-mlx convert --list shows the recipes"
        raise OptionError(f"recipe {path} can't be read", got=got, hint=hint) from None
    for key, value in values.items():
        kinds: Any = _KEYS.get(key, {"bits": dict, "group_size": int}.get(key))
        if kinds is None or not isinstance(value, kinds) or isinstance(value, bool):
            expected = f"one of {', '.join([*_KEYS, 'group_size', 'bits'])}, of the right type"
            raise OptionError(f"{path.name}: {key}", got=shown(value), expected=expected)
    if (name := values.get("name")) is not None and not _is_part_of_a_name(name):
        expected = "what a folder's name may end in, as the result is called so"
        raise OptionError(f"{path.name}: name", got=shown(name), expected=expected)
    for key, lowest, highest in (("bound", 0, 100), ("target", 2, 16)):
        if key in values and not lowest <= values[key] <= highest:  # also refuses NaN
            expected = f"a number from {lowest} to {highest}"
            raise OptionError(f"{path.name}: {key}", got=shown(values[key]), expected=expected)
    bits = values.get("bits") or {}
    if "default" not in bits:
        hint = 'every recipe has [bits] with a default, such as default = 4 (or "bf16")'
        raise OptionError(f"{path.name}: no default", hint=hint)
    return _recipe(path, values, bits)


def _is_part_of_a_name(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and not set("/\\") & set(text)


def _recipe(path: Path, values: Mapping[str, Any], bits: Mapping[str, Any]) -> Recipe:
    group = values.get("group_size", 64)
    specs: dict[str, QuantSpec | None] = {}
    for kind, value in bits.items():
        if kind not in (*CLASSES, "default"):
            expected = f"default, {', '.join(CLASSES)}"
            raise OptionError(f"{path.name}: unknown class", got=shown(kind), expected=expected)
        specs[kind] = _spec(f"{path.name}: {kind}", value, group)
    default = specs.pop("default")
    if default is not None:
        for kind in ("router", "head", "tied"):
            # As in the built-in recipes, these classes are protected by default.
            specs.setdefault(kind, RECIPES["8bit" if default.bits >= 8 else "4bit"].of_class(kind))
    recipe = Recipe(
        values.get("name", path.stem),
        values.get("about", f"from {path.name}"),
        float(values.get("bound", RECIPES["4bit"].bound)),
        default,
        specs,
        target=values.get("target"),
    )
    recipe.check()
    return recipe


def _spec(where: str, value: Any, group: int) -> QuantSpec | None:
    if value in ("bf16", "none"):
        return None
    block = {"bits": value} if isinstance(value, int) else value
    if not isinstance(block, dict) or set(block) - {"bits", "group_size", "mode"}:
        expected = 'bits, "bf16", or { bits, group_size, mode }'
        raise OptionError(where, got=shown(value), expected=expected)
    mode = block.get("mode", "affine")
    if isinstance(mode, str) and mode in _FIXED:
        bits, size = _FIXED[mode]
        if block.get("bits", bits) != bits or block.get("group_size", size) != size:
            expected = f"bits {bits}, group_size {size}: {mode} has no other"
            raise OptionError(where, got=shown(block), expected=expected)
        return QuantSpec(bits, size, mode)
    spec = affine(block.get("bits", 0), block.get("group_size", group))
    if mode != "affine" or spec.bits not in _BITS or spec.group_size not in _GROUPS:
        expected = f"bits {_BITS}, group_size {_GROUPS}, mode affine, {', '.join(_FIXED)}"
        raise OptionError(where, got=shown(block), expected=expected)
    return spec
