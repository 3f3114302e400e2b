"""How positions are encoded: RoPE's base and YaRN, from either spelling in config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.config.values import block as block_of
from qwen3_mlx.config.values import positive
from qwen3_mlx.errors import ConfigError


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


def read_rope(values: Mapping[str, Any]) -> Rope:
    """Read both spellings: ``rope_theta`` + ``rope_scaling``, or ``rope_parameters``."""
    new, old = block_of(values, "rope_parameters"), block_of(values, "rope_scaling")
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
    theta = positive("rope_theta", theta)
    kind = block.pop("rope_type", block.pop("type", "default"))
    block.pop("type", None)
    if kind == "default":
        return Rope(theta, None)
    if kind != "yarn":
        raise ConfigError("config.json: rope_type", got=repr(kind), expected="'default' or 'yarn'")
    if block.get("original_max_position_embeddings") is None:
        block["original_max_position_embeddings"] = values.get("max_position_embeddings")
    return Rope(theta, _yarn(block))


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
        given[key] = positive(f"RoPE {key}", value, (int,) if whole else (int, float))
    if given["factor"] < 1:
        got = repr(given["factor"])
        raise ConfigError("config.json: RoPE factor", got=got, expected="a number from 1")
    return Yarn(**given)
