"""Where a finding begins: the sizes, places and numbers on both sides of each limit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from typer.testing import CliRunner

from qwen3_mlx.checkpoint.check import array_findings, check
from qwen3_mlx.cli.app import app
from tests.checkpoint.test_check import DEMO, arrays, edit
from tests.quantize.conftest import convert

HEAD = "tie_word_embeddings is true, but lm_head.weight is not the embedding"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "demo"))


def found(folder: Path) -> list[str]:
    return [str(finding) for finding in check(folder)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"layer_types": ["full_attention"] * 6}, None),
        ({"layer_types": ["full_attention"] * 7}, "7 layer_types and num_hidden_layers 6"),
        ({"architectures": ["Qwen3Model"]}, None),
        ({"architectures": "Qwen3Model"}, None),
        ({"architectures": ["Qwen3Model", "Odd"]}, "architectures says Odd"),
        ({"torch_dtype": "torch.bfloat16"}, None),
        ({"torch_dtype": None}, None),
        ({"torch_dtype": None, "dtype": "float16"}, "says float16, the arrays are bfloat16"),
    ],
)
def test_what_config_json_may_say(demo: Path, values: dict[str, Any], said: str | None) -> None:
    edit("config.json", **values)(demo)
    texts = found(demo)
    assert len(texts) == (said is not None), texts
    assert said is None or said in texts[0]


def test_dense_layers_of_a_mixture_are_layers_of_it(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO.parent / "demo-moe", tmp_path / "moe"))
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    edit("config.json", mlp_only_layers=[layers, 0, -1, layers - 1])(folder)
    said = f"warning: config.json: mlp_only_layers names no layer: [{layers}, -1]"
    assert [text for text in found(folder) if text.startswith("warning")] == [said]


@pytest.mark.parametrize(("factor", "notes"), [(2.0, []), (1.5, ["reaches 6144 positions"])])
def test_positions_beyond_yarn(demo: Path, factor: float, notes: list[str]) -> None:
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 4096}
    edit("config.json", rope_scaling=scaling, max_position_embeddings=8192)(demo)
    texts = [text for text in found(demo) if "YaRN" in text]
    assert len(texts) == len(notes) and all(note in texts[0] for note in notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"bits": 8}, "is not packed with 8 bits in groups of"),
        ({"group_size": 32}, "in groups of 32: weight"),
    ],
)
def test_packed_weights_are_held_to_their_packing(
    demo: Path, tmp_path: Path, changes: dict[str, Any], said: str | None
) -> None:
    convert(demo, tmp_path / "out", "4bit")
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    for key in ("quantization", "quantization_config"):
        config[key] |= changes
        config[key] |= {path: one | changes for path, one in config[key].items() if "." in path}
    file.write_text(json.dumps(config))
    texts = found(tmp_path / "out")
    assert bool(texts) is (said is not None), texts
    assert said is None or all(text.startswith("error") and said in text for text in texts)
    edit("config.json", quantization=None, quantization_config=None)(tmp_path / "out")
    assert "has scales, but config.json does not say how" in found(tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("place", "seen"),
    [
        (0, True),
        (2047, True),  # the first sample's last number, of two bytes
        (2048, False),
        (172_000, False),
        (2048 * 256 - 2048, True),
        (2048 * 256 - 1, True),
        (2048 * 256 - 2049, False),
        ((2048 * 256 - 2048) // 3, True),  # a third of the way between the first and the last
        ((2048 * 256 - 2048) * 2 // 3 + 1, True),
    ],
)
def test_a_head_is_compared_with_the_embedding_by_four_samples(
    demo: Path, place: int, seen: bool
) -> None:
    def other(weight: mx.array) -> mx.array:
        numbers = weight.flatten()
        numbers[place] = numbers[place] + 1
        return numbers.reshape(weight.shape)

    arrays(lm_head__weight=lambda w: w)(demo)
    assert found(demo) == []
    arrays(lm_head__weight=other)(demo)
    assert [HEAD in text for text in found(demo)] == [True] * seen


@pytest.mark.parametrize("other", [lambda w: w[:-1], lambda w: w.view(mx.float16)])
def test_a_head_of_another_size_or_dtype_is_not_the_embedding(demo: Path, other: Any) -> None:
    arrays(lm_head__weight=other)(demo)
    assert [HEAD in text for text in found(demo)] == [True]


@pytest.mark.parametrize("row", [None, 0, 1, 2])
def test_every_block_of_a_large_tensor_is_read(demo: Path, row: int | None) -> None:
    """A row of more than two million numbers is a block of its own."""
    big = mx.zeros((3, 2**21 + 1), mx.float16)
    if row is not None:
        big[row, -1] = mx.inf
    mx.save_safetensors(str(demo / "model.safetensors"), {"big": big, "empty": mx.zeros((0, 3))})
    want = [] if row is None else ["error: big holds NaN or infinity"]
    assert [str(finding) for finding in array_findings(demo)] == want


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3)])
def test_tensors_of_any_shape_are_read(demo: Path, shape: tuple[int, ...]) -> None:
    odd = mx.full(shape, mx.nan)
    weights = {"odd": odd, "even": mx.zeros(shape), "whole": mx.zeros(shape, mx.int32)}
    mx.save_safetensors(str(demo / "model.safetensors"), weights)
    texts = [str(finding) for finding in array_findings(demo)]
    assert texts == ["error: odd holds NaN or infinity"]


def test_doctor_reads_a_scale_that_is_a_single_number(demo: Path) -> None:
    """FP8 releases store such scales of the KV cache."""
    arrays(model__layers__0__self_attn__k_proj__k_scale=lambda _: mx.array(0.5))(demo)
    refused = CliRunner().invoke(app, ["doctor", str(demo)])
    assert refused.exit_code == 1 and "k_proj.k_scale" in refused.stdout, "as the loader does"
    config = json.loads((demo / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (demo / "config.json").write_text(json.dumps(config))
    result = CliRunner().invoke(app, ["doctor", str(demo)])
    assert result.exit_code == 0 and "every float is finite" in result.stdout, result.output
