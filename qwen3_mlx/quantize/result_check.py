"""Checks a finished result before it is called done or published: files may be lost since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.quantize.journal import DIGESTS, changed
from qwen3_mlx.quantize.plan import Plan
from qwen3_mlx.quantize.target_check import RECORD

_NUMBER = (int, float)
_MEASURED = ("kl_mean", "perplexity_source", "perplexity_result")
"""What may be None, where a network gave no finite number."""


def damage(
    plan: Plan, out: Path, planned: bool = True, digests: Mapping[str, str] | None = None
) -> str | None:
    """What the result of `plan` in `out` lacks, or None. Reads sizes and headers.

    planned: the weights are those of the plan, not another program's. digests: of the files whose
    every byte is to be read too.
    """
    shards = {shard.name: shard.nbytes for shard in plan.shards}
    for name in plan.files():
        if name in shards and not planned:
            continue
        if not (out / name).is_file():
            return f"no {name}"
        if name in shards and (size := (out / name).stat().st_size) != shards[name]:
            return f"{name} of {size:,} bytes, not {shards[name]:,}"
    try:
        checkpoint_tensors(out)
        return changed(out, (digests or {}).items())
    except Qwen3Error as error:
        return error.summary
    except OSError as error:  # a file of the digests that isn't there, or can't be read
        return f"{error.filename}: {error.strerror}"


def record_fault(record: Mapping[str, Any]) -> str | None:
    """The entry of a conversion's record that was damaged or edited, or None."""
    recipe, measured = record.get("recipe"), record.get("measured")
    checks = {
        "weight_bytes": type(record.get("weight_bytes")) is int,
        "bits_per_weight": isinstance(record.get("bits_per_weight"), _NUMBER),
        "recipe": isinstance(recipe, dict) and isinstance(recipe.get("bound"), _NUMBER),
        "measured": "measured" in record and (measured is None or _is_measured(measured)),
        DIGESTS: _are_texts(record.get(DIGESTS, {})),  # records of earlier versions have none
    }
    wrong = next((key for key, right in checks.items() if not right), None)
    return f"{RECORD} with a damaged {wrong!r}" if wrong else None


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _is_measured(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("agreement"), _NUMBER):
        return False
    return all(key in value and isinstance(value[key], (*_NUMBER, type(None))) for key in _MEASURED)
