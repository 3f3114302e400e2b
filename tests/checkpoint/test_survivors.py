"""What a sample of mutants of `match.py` survived: counts in its error, hints, layers."""

from __future__ import annotations

import pytest

from qwen3_mlx.checkpoint.match import by_layer, difference_error


@pytest.mark.parametrize(
    ("count", "head", "end"),
    [
        (1, "1 tensor differs\n", "missing w0"),
        (2, "2 tensors differ\n", "missing w1"),
        (5, "5 tensors differ\n", "missing w4"),
        (6, "6 tensors differ\n", "missing w4\n  … and 1 more"),
    ],
)
def test_differences_are_counted_and_five_are_listed(count: int, head: str, end: str) -> None:
    error = difference_error([f"w{n}" for n in range(count)], [], [])
    assert head in error.summary and error.summary.endswith(end)


def test_a_missing_head_is_the_cause_only_where_nothing_else_differs() -> None:
    hints = [difference_error(["lm_head.weight"], [], more).hint for more in ([], ["other.weight"])]
    assert ["no output head" in str(hint) for hint in hints] == [True, False]


def test_parameters_come_layer_by_layer() -> None:
    names = ["model.norm.weight", "model.layers.10.a", "model.layers.2.b", "model.layers.2.a"]
    assert list(by_layer(names)) == [
        ["model.norm.weight"],
        ["model.layers.2.b", "model.layers.2.a"],
        ["model.layers.10.a"],
    ]


def test_another_size_is_the_cause_only_where_all_names_fit() -> None:
    hints = [difference_error([], ["w is [1]"], more).hint for more in ([], ["other.weight"])]
    assert ["another size" in str(hint) for hint in hints] == [True, False]


def test_a_shard_that_was_not_fetched_is_the_cause_only_where_nothing_is_too_much() -> None:
    hints = [difference_error(["w"], [], more).hint for more in ([], ["other.weight"])]
    assert ["not fetched whole" in str(hint) for hint in hints] == [True, False]


GPTQ = "gptq"


@pytest.mark.parametrize(
    ("name", "packing", "said"),
    [
        ("model.layers.0.mlp.up_proj.qweight", GPTQ, "config.json says gptq, and these tensors"),
        ("model.layers.0.mlp.up_proj.qweight", "", "another tool packed these weights"),
        ("model.layers.0.mlp.experts.gate_up_proj.qweight", GPTQ, "packed in one array"),
        ("model.layers.0.mlp.experts.gate_up_proj.qweight", "", "another tool packed"),
        ("model.layers.0.mlp.experts.up_proj_scales", GPTQ, "packed in one array"),
        ("model.layers.0.mlp.up_proj.lora_A.weight", GPTQ, "a LoRA adapter"),
        ("model.layers.0.mlp.up_proj.weight", GPTQ, "mixes files of different models"),
    ],
)
def test_what_surplus_tensors_say_of_a_packing(name: str, packing: str, said: str) -> None:
    assert said in str(difference_error([], [], [name], packing).hint)
    alone = difference_error(["w"], [], [], packing).hint
    assert "packed" not in str(alone) and "packing" not in str(alone)
