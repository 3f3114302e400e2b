"""MLX's ``quantization`` block in config.json: the default packing and its exceptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.config import packing
from qwen3_mlx.config.values import block as block_of
from qwen3_mlx.errors import ConfigError, brief, shown

MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How a tensor is packed: bits per weight, weights per group, and MLX's mode."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __str__(self) -> str:
        kind = "" if self.mode == "affine" else f", {self.mode}"
        return f"{self.bits} bits in groups of {self.group_size}{kind}"


@dataclass(frozen=True)
class Quantization:
    """The default packing and the exceptions by module path (None: not quantized)."""

    default: QuantSpec
    overrides: Mapping[str, QuantSpec | None]
    listed_only: bool = False
    """Whether only the modules in `overrides` are packed; `default` is then the most common."""

    def __str__(self) -> str:
        others = {spec for spec in self.overrides.values() if spec not in (None, self.default)}
        return f"{self.default}{', others otherwise' if others else ''}"

    def spec(self, path: str) -> QuantSpec | None:
        """The packing of the module at `path`; None if it isn't quantized."""
        return self.overrides.get(path, None if self.listed_only else self.default)


def read_quantization(values: Mapping[str, Any]) -> Quantization | None:
    """Read MLX's ``quantization``: bits, group_size, mode, and per-module-path exceptions.

    An exception is false (not quantized), true (the default), or an object that inherits missing
    settings from the default. Raises `ConfigError`, also for another tool's packing; its hint says
    whether `convert` can read that.
    """
    block = block_of(values, "quantization")
    if not block:
        block = block_of(values, "quantization_config")
        if not block:
            return None
        if foreign := packing.read(block):
            raise ConfigError(
                "config.json: quantization_config",
                got=shown(foreign.method),
                expected="MLX's own quantization",
                hint="run qwen3-mlx convert on it first, or take an MLX one such as the alias 8b",
            )
    block = {key: value for key, value in block.items() if value is not None}
    if block.pop("quant_method", "mlx") != "mlx":
        got = shown(values["quantization"]["quant_method"])
        raise ConfigError("config.json: quantization.quant_method", got=got, expected="'mlx'")
    settings = {k: v for k, v in block.items() if not isinstance(v, (dict, bool))}
    exceptions = {path: value for path, value in block.items() if path not in settings}
    default = _quant_spec(settings, "quantization") if settings else None
    inherited = settings if default else {}
    overrides: dict[str, QuantSpec | None] = {}
    for path, value in exceptions.items():
        if isinstance(value, dict):
            overrides[path] = _exception(inherited, value, path)
        else:
            overrides[path] = default if value else None
    if default is not None:
        return Quantization(default, overrides)
    packed = Counter(spec for spec in overrides.values() if spec is not None)
    if not packed or any(value is True for value in exceptions.values()):
        raise ConfigError(
            "config.json: quantization",
            got=brief(block),
            expected="bits and group_size, for all modules or for some by path",
        )
    return Quantization(max(packed, key=packed.__getitem__), overrides, listed_only=True)


def _exception(inherited: Mapping[str, Any], value: Mapping[str, Any], path: str) -> QuantSpec:
    """An exception's packing. If it has bits but no mode, the mode is affine, not the default's.

    So mlx-lm 0.32 writes an 8-bit router beside experts in mxfp4 (utils.py `quantize_model`).
    """
    own = {key: setting for key, setting in value.items() if setting is not None}
    if "bits" in own:
        inherited = {key: setting for key, setting in inherited.items() if key != "mode"}
    return _quant_spec({**inherited, **own}, path)


def _quant_spec(block: Any, where: str) -> QuantSpec:
    known = QuantSpec.__dataclass_fields__
    if not isinstance(block, dict) or any(key not in known for key in block):
        raise ConfigError(
            f"config.json: quantization of {where}", got=shown(block), expected=", ".join(known)
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
