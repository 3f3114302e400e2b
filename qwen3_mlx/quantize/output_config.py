"""Writes the result's config.json in a form that mlx-lm reads too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.config.network import DENSE_KEYS, MOE_KEYS, SPELLINGS
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.quantize.formats import Source


def output_config(
    source: Source, dtype: mx.Dtype, specs: Mapping[str, QuantSpec | None]
) -> dict[str, Any]:
    """config.json for weights packed by `specs`, by module path (None: not quantized).

    The most common packing is the default, others are exceptions. mlx-lm reads neither
    ``rope_parameters`` of a Mixture of Experts nor transformers 5's ``num_local_experts``, so the
    older keys are written too, and defaults that transformers omits.
    """
    gone = {"quantization", "quantization_config", "_name_or_path"}
    values = {key: value for key, value in source.values.items() if key not in gone}
    config = source.config
    for key in (*DENSE_KEYS, *(MOE_KEYS if config.is_moe else ())):
        value = getattr(config, key)
        values.setdefault(key, list(value) if isinstance(value, tuple) else value)
    for other in SPELLINGS:
        values.pop(other, None)
    if rope := values.get("rope_parameters"):
        values.setdefault("rope_theta", config.rope.theta)
        if config.rope.scaling is not None:
            values.setdefault("rope_scaling", {k: v for k, v in rope.items() if k != "rope_theta"})
    values["dtype" if "dtype" in values else "torch_dtype"] = _name(dtype)
    if not config.head:
        values["architectures"] = ["Qwen3Model"]  # the body alone: no head is missing
    if block := _quantization(specs):
        # By the second name the hub recognises a quantized model.
        values |= {"quantization": block, "quantization_config": block}
    return dict(sorted(values.items()))


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def _quantization(specs: Mapping[str, QuantSpec | None]) -> dict[str, Any] | None:
    packed = {path: spec for path, spec in specs.items() if spec is not None}
    if not packed:
        return None
    default, _ = Counter(packed.values()).most_common(1)[0]
    others = {path: asdict(spec) for path, spec in sorted(packed.items()) if spec != default}
    return asdict(default) | others
