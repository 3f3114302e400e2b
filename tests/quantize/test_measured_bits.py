"""The recipe that measures: within its size, better than the same size spent evenly."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.config.recipes import Recipe, find, weight_class
from qwen3_mlx.errors import OptionError
from qwen3_mlx.quantize import measured_bits
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.quantize.plan import make_plan
from tests.quantize.build import DENSE, MOE, bf16, bf16_model, random_weights, write_model

RECIPE = find("dynamic")


@pytest.mark.parametrize("target", [5.5, 6.0, 7.0, 8.4])
@pytest.mark.parametrize("moe", [False, True])
def test_the_size_is_kept_and_used(tmp_path: Path, target: float, moe: bool) -> None:
    source = open_source(bf16_model(tmp_path, MOE if moe else DENSE))
    if target < 6 and not moe:
        target = 6.2  # a tied embedding of 512 rows is a third of this model
    recipe = replace(RECIPE, target=target)
    chosen = measured_bits.choose(
        source, recipe, measured_bits.measure(source, recipe), mx.bfloat16
    )
    plan = make_plan(source, chosen)
    assert target - 0.35 < plan.bits_per_weight <= target
    for item in plan.items:
        if item.spec is not None:
            kind = weight_class(item.weight.path, source.config) or ""
            assert item.spec.bits >= {"router": 8, "head": 6, "tied": 6}.get(kind, 4)


@pytest.mark.parametrize("changes", [{}, {"vocab_size": 520}, {"vocab_size": 528}])
def test_a_target_below_the_floor_says_the_least(tmp_path: Path, changes: dict[str, int]) -> None:
    """What is said is enough: rounded to nearest, it was refused in its turn."""
    source = open_source(bf16_model(tmp_path, DENSE | changes))
    recipe = replace(RECIPE, target=3.0)
    errors = measured_bits.measure(source, recipe)
    said = r"got 3.0 bits a weight, expected at least ([45]\.\d+)"
    with pytest.raises(OptionError, match=said) as caught:
        measured_bits.choose(source, recipe, errors, mx.bfloat16)
    least = re.search(said, str(caught.value))
    assert least is not None
    measured_bits.choose(source, replace(recipe, target=float(least[1])), errors, mx.bfloat16)


def test_what_is_hard_to_pack_gets_more_bits(tmp_path: Path) -> None:
    weights = random_weights(DENSE)
    hard = "model.layers.1.mlp.up_proj"
    rng = np.random.default_rng(1)
    outliers = rng.random(weights[f"{hard}.weight"].shape) < 0.02
    weights[f"{hard}.weight"] = np.where(outliers, 30, 1) * weights[f"{hard}.weight"]
    source = open_source(write_model(tmp_path, DENSE, {n: bf16(x) for n, x in weights.items()}))
    recipe = replace(RECIPE, target=6.2)
    errors = measured_bits.measure(source, recipe)
    chosen = measured_bits.choose(source, recipe, errors, mx.bfloat16)
    assert errors[hard][4] > 1.3 * errors["model.layers.0.mlp.up_proj"][4]
    bits = {path: spec.bits for path, spec in chosen.paths.items() if spec}
    assert bits[hard] > bits["model.layers.0.mlp.up_proj"]


def test_measuring_is_deterministic_and_errors_fall_with_bits(tmp_path: Path) -> None:
    source = open_source(bf16_model(tmp_path, MOE))
    errors = measured_bits.measure(source, RECIPE)
    assert errors == measured_bits.measure(source, RECIPE)
    for row in errors.values():
        values = [row[bits] for bits in sorted(row)]
        assert values == sorted(values, reverse=True) and values[-1] > 0


def total_error(errors: measured_bits.Errors, recipe: Recipe) -> float:
    return sum(row[spec.bits] for path, row in errors.items() if (spec := recipe.paths[path]))


def test_the_bits_are_better_spent_than_by_chance(tmp_path: Path) -> None:
    source = open_source(bf16_model(tmp_path, DENSE))
    recipe = replace(RECIPE, target=6.2)
    errors = measured_bits.measure(source, recipe)
    chosen = measured_bits.choose(source, recipe, errors, mx.bfloat16)
    size = make_plan(source, chosen).weight_bytes
    rng = np.random.default_rng(0)
    beaten = 0
    for _ in range(200):
        paths = {
            path: replace(spec, bits=int(rng.choice(sorted(errors[path]))))
            for path, spec in chosen.paths.items()
            if spec
        }
        other = replace(chosen, paths=paths)
        if make_plan(source, other).weight_bytes <= size:
            beaten += total_error(errors, other) < total_error(errors, chosen)
    assert beaten == 0
