"""What an adapter's files may say: the numbers, shapes and names on both sides of each limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint.adapter import read_adapter
from qwen3_mlx.checkpoint.adapter_parts import Layout, Pair, check_pair, no_such_modules, positive
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import CheckpointError, ConfigError, Qwen3Error
from tests.checkpoint.test_adapters import spoiled
from tests.checkpoints import GOLDEN


def mlx_adapter(folder: Path, path: str, settings: dict[str, Any], rows: int = 64) -> Path:
    """An adapter as mlx-lm writes them, of the module at `path` (64 columns)."""
    weights = {f"{path}.lora_a": mx.ones((64, 2)), f"{path}.lora_b": mx.ones((2, rows))}
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    (folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora"} | settings))
    return folder


@pytest.mark.parametrize(
    ("layer", "layers", "fits"),
    [
        (0, 2, True),
        (0, 0, True),  # all of them, and so below 0
        (0, -1, True),
        (0, 1, False),
        (1, 1, True),
        (1, 2, True),
        (1, 3, False),  # the model has two
        (1, True, False),
        (1, None, False),
    ],
)
def test_the_last_layers_are_counted(tmp_path: Path, layer: int, layers: Any, fits: bool) -> None:
    path = f"model.layers.{layer}.self_attn.q_proj"
    settings = {"num_layers": layers, "lora_parameters": {"rank": 2, "scale": 1.0}}
    adapter = mlx_adapter(tmp_path, path, settings)
    config = Qwen3Config.from_dir(GOLDEN / "dense-tied")
    assert config.num_hidden_layers == 2
    if fits:
        assert list(read_adapter(adapter, config).updates) == [path]
    else:
        with pytest.raises(Qwen3Error, match="num_layers"):
            read_adapter(adapter, config)


@pytest.mark.parametrize(
    ("scale", "fits"),
    [
        *((scale, True) for scale in (1, -2.5, 0.0, 9.9e8)),
        *((scale, False) for scale in (1e9, -1e9, True, "1", None, float("nan"))),
    ],
)
def test_the_scale_is_a_number(tmp_path: Path, scale: Any, fits: bool) -> None:
    path = "model.layers.1.self_attn.q_proj"
    settings = {"num_layers": 1, "lora_parameters": {"rank": 2, "scale": scale}}
    config = Qwen3Config.from_dir(GOLDEN / "dense-tied")
    adapter = mlx_adapter(tmp_path, path, settings)
    if not fits:
        with pytest.raises(ConfigError, match="scale"):
            read_adapter(adapter, config)
        return
    a, b = read_adapter(adapter, config).updates[path].factors()
    assert (a.shape, b.shape) == ((2, 64), (64, 2))
    assert mx.array_equal(a, mx.ones((2, 64))) and mx.array_equal(b, mx.full((64, 2), scale))


@pytest.mark.parametrize(
    ("keys", "fits"),
    [
        (None, True),
        (["self_attn.q_proj"], True),
        (["self_attn.q_proj", "no.such_module"], True),
        (["self_attn.q_proj", "self_attn.k_proj"], False),
        ([], False),
        ("self_attn.q_proj", False),
        ([1], False),
    ],
)
def test_the_tensors_are_those_of_the_keys(tmp_path: Path, keys: Any, fits: bool) -> None:
    path = "model.layers.1.self_attn.q_proj"
    settings = {"num_layers": 1, "lora_parameters": {"rank": 2, "scale": 1.0, "keys": keys}}
    adapter = mlx_adapter(tmp_path, path, settings)
    config = Qwen3Config.from_dir(GOLDEN / "dense-tied")
    if fits:
        assert list(read_adapter(adapter, config).updates) == [path]
    else:
        with pytest.raises(Qwen3Error, match="keys"):
            read_adapter(adapter, config)


@pytest.mark.parametrize(
    ("value", "whole", "fits"),
    [
        (1, True, True),
        (999_999_999, True, True),
        (10**9, True, False),
        (0, True, False),
        (-1, True, False),
        (2.0, True, False),
        (True, True, False),
        (0.001, False, True),
        (2, False, True),
        (0.0, False, False),
        (1e9, False, False),
        (None, False, False),
    ],
)
def test_numbers_above_0(value: Any, whole: bool, fits: bool) -> None:
    if fits:
        assert positive({"r": value}, "r", whole=whole) == value
    else:
        with pytest.raises(ConfigError, match=r"adapter_config\.json: r: got"):
            positive({"r": value}, "r", whole=whole)


Shapes = tuple[tuple[int, ...], tuple[int, ...]]
LAYOUTS: dict[Layout, Shapes] = {
    "rows": ((2, 64), (32, 2)),
    "columns": ((64, 2), (2, 32)),
    "stacked": ((4, 2, 64), (4, 32, 2)),
    "parameter": ((8, 64), (32, 8)),
}
RANK_AXES = {"rows": (0, 1), "columns": (1, 0), "stacked": (1, 2), "parameter": (0, 1)}


def one_more(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_shape_is_another_rank_or_another_model(layout: Layout) -> None:
    right = LAYOUTS[layout]

    def checked(*shapes: tuple[int, ...], dtype: str = "F32") -> str:
        infos = [
            TensorInfo(name, dtype, s, 0, Path(), 0) for name, s in zip("ab", shapes, strict=True)
        ]
        try:
            check_pair(Pair(*infos, 1.0, layout), *right)
        except CheckpointError as error:
            return str(error)
        return ""

    assert checked(*right) == ""
    assert "got U8, expected" in checked(*right, dtype="U8")
    for half in (0, 1):
        for axis in range(len(right[half])):
            shapes = list(right)
            shapes[half] = one_more(right[half], axis)
            cause = "its rank is not" if axis == RANK_AXES[layout][half] else "another model"
            said = checked(*shapes)
            assert f"adapter: {'ab'[half]}: got" in said and cause in said
        shapes = list(right)
        shapes[half] = (*right[half], 1)
        assert "another model" in checked(*shapes)


def test_three_unknown_modules_are_named_and_others_counted() -> None:
    known = ["model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"]
    three = no_such_modules(["c", "a", "b"], known)
    assert "got a, b, c, expected linear layers of this model: q_proj, up_proj" in str(three)
    assert "got a, b, c and 1 more, expected" in str(no_such_modules([*"abcd"], known))


SWITCHES = ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora")
LISTS = ("modules_to_save", "trainable_token_indices", "layer_replication")
LISTS += ("alora_invocation_tokens",)
BLOCKS = ("arrow_config", "velora_config", "monteclora_config", "kasa_config")
SETTINGS: list[tuple[str, list[Any], list[Any]]] = [
    ("bias", ["none"], ["all", None]),
    *((key, [False, None], [True]) for key in SWITCHES),
    *((key, [[], None], [[1]]) for key in LISTS),
    *((key, [None], [{"a": 1}]) for key in BLOCKS),
    ("init_lora_weights", [True, False, None, "gaussian", "eva", "orthogonal"], ["pissa", "olora"]),
]


@pytest.mark.parametrize(("key", "applied", "others"), SETTINGS)
def test_what_a_setting_may_be(
    tmp_path: Path, key: str, applied: list[Any], others: list[Any]
) -> None:
    config = Qwen3Config.from_dir(GOLDEN / "dense-tied")
    for number, value in enumerate([*applied, *others]):
        adapter = spoiled(tmp_path / str(number), **{key: value})
        if value in applied:
            assert read_adapter(adapter, config).updates
        else:
            with pytest.raises(ConfigError, match=f"{key}: got"):
                read_adapter(adapter, config)
    silent = spoiled(tmp_path / "silent")
    values = json.loads((silent / "adapter_config.json").read_text())
    del values[key]
    (silent / "adapter_config.json").write_text(json.dumps(values))
    assert read_adapter(silent, config).updates


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (["q_proj"], "down_proj"),
        (r".*\.q_proj", "down_proj"),
        (["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"], "gate_proj"),
    ],
)
def test_the_first_module_that_is_no_target_is_named(
    tmp_path: Path, targets: Any, named: str
) -> None:
    """The first in the file."""
    adapter = spoiled(tmp_path, target_modules=targets)
    with pytest.raises(CheckpointError, match=rf"got model\.layers\.0\.mlp\.{named}, expected"):
        read_adapter(adapter, Qwen3Config.from_dir(GOLDEN / "dense-tied"))


@pytest.mark.parametrize("targets", [r".*\.(q|k|v|o|up|down)_proj", ["q_proj", "k_proj", "v_proj"]])
def test_one_module_that_is_no_target_is_enough(tmp_path: Path, targets: Any) -> None:
    """Only that of one module is left of the adapter."""
    adapter = spoiled(tmp_path, target_modules=targets)
    file = str(adapter / "adapter_model.safetensors")
    weights = {n: w for n, w in mx.load(file).items() if "layers.0.mlp.gate_proj" in n}
    mx.eval(list(weights.values()))
    mx.save_safetensors(file, weights)
    with pytest.raises(CheckpointError, match=r"got model\.layers\.0\.mlp\.gate_proj, expected"):
        read_adapter(adapter, Qwen3Config.from_dir(GOLDEN / "dense-tied"))
