"""The nested parts of config.json: how positions are encoded, and how weights are packed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.errors import ConfigError

LARGEST = 2**31
"""Sides of arrays, and everything counted along them, stay below."""

MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN context extension (arXiv 2309.00071), with transformers' parameter names."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    @property
    def mscale(self) -> float:
        """What queries and keys are multiplied by: ``0.1 ln(factor) + 1`` unless given."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding: the base and, beyond the native length, YaRN."""

    theta: float
    scaling: Yarn | None = None


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How one tensor is packed: bits a weight, weights a group, and MLX's mode."""

    bits: int
    group_size: int
    mode: str = "affine"


@dataclass(frozen=True)
class Quantization:
    """The default packing and the exceptions by module path (None: not quantized)."""

    default: QuantSpec
    overrides: Mapping[str, QuantSpec | None]

    def spec(self, path: str) -> QuantSpec | None:
        """The packing of the module at `path`, or None where it is not quantized."""
        return self.overrides.get(path, self.default)


def read_rope(values: Mapping[str, Any]) -> Rope:
    """Read both spellings: ``rope_theta`` + ``rope_scaling``, or ``rope_parameters``."""
    new, old = _block(values, "rope_parameters"), _block(values, "rope_scaling")
    if new and old:
        raise ConfigError(
            "config.json: rope_parameters and rope_scaling", got="both", expected="one of them"
        )
    block = new or old
    theta = block.pop("rope_theta", values.get("rope_theta"))
    if values.get("rope_theta", theta) not in (theta, None):
        raise ConfigError(
            "config.json: rope_theta",
            got=repr(values["rope_theta"]),
            expected=f"{theta!r}, as rope_parameters says",
        )
    theta = _positive("rope_theta", theta)
    kind = block.pop("rope_type", block.pop("type", "default"))
    block.pop("type", None)
    if kind == "default":
        return Rope(theta, None)
    if kind != "yarn":
        raise ConfigError("config.json: rope_type", got=repr(kind), expected="'default' or 'yarn'")
    if block.get("original_max_position_embeddings") is None:
        block["original_max_position_embeddings"] = values.get("max_position_embeddings")
    return Rope(theta, _yarn(block))


def _block(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the object at `key`; empty where there is none."""
    block = values.get(key)
    if block is not None and not isinstance(block, dict):
        raise ConfigError(f"config.json: {key}", got=repr(block), expected="an object")
    return dict(block or {})


def _positive(key: str, value: Any, kinds: tuple[type, ...] = (int, float)) -> float:
    """`value` if it is a positive number that arithmetic can bear."""
    if type(value) in kinds and 0 < value < LARGEST:
        return value if kinds == (int,) else float(value)
    expected = "a positive whole number" if kinds == (int,) else "a positive number"
    raise ConfigError(f"config.json: {key}", got=repr(value), expected=expected)


def _yarn(block: dict[str, Any]) -> Yarn:
    names = Yarn.__dataclass_fields__
    for key, value in block.items():
        if key not in names:
            raise ConfigError(f"config.json: unknown RoPE key {key!r}", got=repr(value))
    given = {key: value for key, value in block.items() if value is not None}
    given.setdefault("factor", None)
    for key, value in given.items():
        if key == "truncate":
            if not isinstance(value, bool):
                raise ConfigError(f"config.json: RoPE {key}", got=repr(value), expected="a bool")
            continue
        whole = key == "original_max_position_embeddings"
        given[key] = _positive(f"RoPE {key}", value, (int,) if whole else (int, float))
    if given["factor"] < 1:
        got = repr(given["factor"])
        raise ConfigError("config.json: RoPE factor", got=got, expected="a number from 1")
    return Yarn(**given)


def read_quantization(values: Mapping[str, Any]) -> Quantization | None:
    """Read MLX's ``quantization``: bits, group_size, mode, and per-module-path exceptions."""
    block = _block(values, "quantization")
    if not block:
        foreign = _block(values, "quantization_config")
        if not foreign:
            return None
        if "bits" not in foreign or "quant_method" in foreign:
            raise ConfigError(
                "config.json: quantization_config",
                got=repr(foreign.get("quant_method", foreign)),
                expected="MLX's own quantization",
                hint="run qwen3-mlx convert on it first, or take an MLX one such as the alias 8b",
            )
        block = foreign
    settings = {key: value for key, value in block.items() if _is_setting(value)}
    overrides = {
        path: _quant_spec(value, path) if value else None
        for path, value in block.items()
        if not _is_setting(value) or value is False
    }
    return Quantization(_quant_spec(settings, "quantization"), overrides)


def _is_setting(value: Any) -> bool:
    return not isinstance(value, (dict, bool))


def _quant_spec(block: Any, where: str) -> QuantSpec:
    known = QuantSpec.__dataclass_fields__
    if not isinstance(block, dict) or any(key not in known for key in block):
        raise ConfigError(
            f"config.json: quantization of {where}", got=repr(block), expected=", ".join(known)
        )
    spec = QuantSpec(**{"bits": 0, "group_size": 0, **block})
    if spec.mode not in MODES:
        raise ConfigError(
            f"config.json: quantization of {where}",
            got=f"mode {spec.mode!r}",
            expected=", ".join(MODES),
        )
    if spec.bits not in (2, 3, 4, 5, 6, 8) or spec.group_size not in (16, 32, 64, 128):
        raise ConfigError(
            f"config.json: quantization of {where}",
            got=f"bits {spec.bits}, group_size {spec.group_size}",
            expected="bits 2, 3, 4, 5, 6 or 8 and group_size 16, 32, 64 or 128",
        )
    return spec
