"""Reads RoPE's base and YaRN from either spelling in config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.config.values import block as block_of
from qwen3_mlx.config.values import positive
from qwen3_mlx.errors import ConfigError, shown


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
        """The factor on queries and keys: ``0.1 ln(factor) + 1`` unless given."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding: the base, and YaRN if the context is extended."""

    theta: float
    scaling: Yarn | None = None


DEFAULT_THETA = 10_000.0
"""The default of transformers, which its version 5 may omit from config.json."""

# Settings of a RoPE block that are ignored, and the values at which they have no effect.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1,),
    "extrapolation_factor": (1,),  # vLLM's
    "finetuned": (True, False),  # says how the weights were made
    "mrope_section": (),
    "mrope_interleaved": (False,),
}


def read_rope(values: Mapping[str, Any]) -> Rope:
    """Read ``rope_theta`` and ``rope_scaling``, or ``rope_parameters``. Raises `ConfigError`.

    If config.json has both spellings, as some converters write, they must agree.
    """
    new, old = block_of(values, "rope_parameters"), block_of(values, "rope_scaling")
    theta = _theta(values, new, old)
    readings = [_scaling(block, values) for block in (new, old) if block]
    # A block with only a base doesn't count as a reading: {"rope_theta": 1e6} beside rope_scaling.
    if len(readings) == 2 and readings[0] != readings[1]:
        raise ConfigError(
            "config.json: rope_parameters and rope_scaling",
            got=f"{readings[0] or 'no scaling'} and {readings[1] or 'no scaling'}",
            expected="the same in both",
            hint="remove the one that is wrong",
        )
    return Rope(theta, readings[0] if readings else None)


def _theta(values: Mapping[str, Any], *blocks: dict[str, Any]) -> float:
    """The base, which may be given in up to three places that must agree."""
    named = {"rope_theta": values["rope_theta"]} if "rope_theta" in values else {}
    for where, block in zip(("rope_parameters", "rope_scaling"), blocks, strict=True):
        if (theta := block.pop("rope_theta", None)) is not None:
            named[f"{where}.rope_theta"] = theta
    named = {where: theta for where, theta in named.items() if theta is not None} or named
    found = {where: positive("rope_theta", theta) for where, theta in named.items()}
    if len(set(found.values())) > 1:
        got = ", ".join(f"{where} {theta!r}" for where, theta in found.items())
        raise ConfigError("config.json: rope_theta", got=got, expected="one value")
    return next(iter(found.values()), DEFAULT_THETA)


def _scaling(block: dict[str, Any], values: Mapping[str, Any]) -> Yarn | None:
    """The scaling in one block. Raises `ConfigError` for settings without a meaning."""
    kinds = {repr(block.pop(key)) for key in ("rope_type", "type") if block.get(key) is not None}
    if len(kinds) > 1:
        got = " and ".join(sorted(kinds))
        raise ConfigError("config.json: rope_type and type", got=got, expected="the same")
    kind = next(iter(kinds), None)
    block = {key: value for key, value in block.items() if value is not None}
    for key in [key for key in block if key in _WITHOUT_EFFECT]:
        if (value := block.pop(key)) not in _WITHOUT_EFFECT[key]:
            allowed = " or ".join(map(str, _WITHOUT_EFFECT[key]))
            expected = f"{allowed or 'nothing'}: Qwen3 rotates whole heads by one position"
            raise ConfigError(f"config.json: RoPE {key}", got=shown(value), expected=expected)
    if kind == "'yarn'":
        return _yarn(block, values)
    if kind not in (None, "'default'"):
        raise ConfigError("config.json: rope_type", got=kind, expected="'default' or 'yarn'")
    for key, value in block.items():
        if key == "original_max_position_embeddings" or (key == "factor" and value == 1):
            continue  # consistent with no scaling
        raise ConfigError(
            f"config.json: RoPE {key}",
            got=f"{value!r} with rope_type {kind or 'missing'}",
            expected="rope_type 'yarn', or no scaling",
            hint="without a type nothing says how positions are to be scaled",
        )
    return None


def _yarn(block: dict[str, Any], values: Mapping[str, Any]) -> Yarn:
    known = {*Yarn.__dataclass_fields__, *_FACTORS}
    for key, value in block.items():
        if key not in known:
            raise ConfigError(f"config.json: unknown RoPE key {key!r}", got=shown(value))
    given = {"factor": None} | block
    given.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
    for key, value in given.items():
        if key == "truncate":
            if not isinstance(value, bool):
                raise ConfigError(f"config.json: RoPE {key}", got=shown(value), expected="a bool")
            continue
        if key == "mscale_all_dim" and value == 0:
            continue  # off
        given[key] = positive(f"RoPE {key}", value)
    length = given["original_max_position_embeddings"]
    if length != int(length):
        what = "config.json: RoPE original_max_position_embeddings"
        raise ConfigError(what, got=length, expected="a whole number")
    given["original_max_position_embeddings"] = int(length)
    if given["factor"] < 1:
        got = shown(given["factor"])
        raise ConfigError("config.json: RoPE factor", got=got, expected="a number from 1")
    factors = {key: given.pop(key) for key in _FACTORS if key in given}
    if factors:
        given["attention_factor"] = _attention_factor(given, factors)
    return Yarn(**given)


_FACTORS = ("attn_factor", "mscale", "mscale_all_dim")


def _attention_factor(given: Mapping[str, Any], factors: Mapping[str, float]) -> float | None:
    """YaRN's factor on queries and keys, from the other keys that express it.

    ``mscale`` and ``mscale_all_dim`` give a quotient of two scales, as in transformers.
    ``attn_factor`` multiplies YaRN's own factor, as in vLLM and llama.cpp; transformers ignores it
    with a warning. In DeepSeek-R1-0528-Qwen3-8B it is 1 / (0.1 ln 4 + 1): the product is 1.
    """

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(given["factor"]) + 1.0

    over, under = factors.get("mscale", 0), factors.get("mscale_all_dim", 0)
    if bool(over) != bool(under) and (over or under) != 1:
        name = "mscale" if over else "mscale_all_dim"
        raise ConfigError(
            f"config.json: RoPE {name}",
            got=over or under,
            expected="mscale and mscale_all_dim together",
            hint="one of them alone means different things to different programs",
        )
    own = scale(over) / scale(under) if over and under else scale(1)
    product = own * factors.get("attn_factor", 1.0)
    explicit: float | None = given.get("attention_factor")
    if explicit is not None and not math.isclose(explicit, product, rel_tol=1e-6):
        raise ConfigError(
            "config.json: RoPE attention_factor",
            got=f"{explicit}, and {', '.join(factors)} that make {product:.6g}",
            expected="the same",
        )
    return product if explicit is None else explicit
