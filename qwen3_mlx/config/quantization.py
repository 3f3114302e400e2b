"""How weights are packed: MLX's ``quantization`` in config.json, the default and its exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.config.values import block as block_of
from qwen3_mlx.errors import ConfigError

MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


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


def read_quantization(values: Mapping[str, Any]) -> Quantization | None:
    """Read MLX's ``quantization``: bits, group_size, mode, and per-module-path exceptions."""
    block = block_of(values, "quantization")
    if not block:
        foreign = block_of(values, "quantization_config")
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
