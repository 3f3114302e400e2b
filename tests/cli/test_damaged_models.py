"""A model directory whose files are cut, empty, broken or another model's: one clear error each.

The format's own lies are in tests/checkpoint/test_damaged_files.py; here is what a user sees.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwen3_mlx.cli.app import app

BUNDLED = Path(__file__).parents[2] / "qwen3_mlx"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Damage = Callable[[Path], object]


def cut(name: str, keep: int) -> Damage:
    """Only the first `keep` bytes of a file are left; of a negative `keep` all but the last."""
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:keep])


def put(name: str, text: str) -> Damage:
    """A file says something else; an index takes the weights' place."""

    def damage(model: Path) -> None:
        if name == INDEX:
            (model / WEIGHTS).unlink()
        (model / name).write_text(text)

    return damage


def without(name: str) -> Damage:
    return lambda model: (model / name).unlink()


def first_tensor(model: Path) -> None:
    """Cut in the middle of the tensor that begins first."""
    data = (model / WEIGHTS).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    (model / WEIGHTS).write_bytes(data[: start + 10])


def between_tensors(model: Path) -> None:
    """Cut where the first tensor ends."""
    data = (model / WEIGHTS).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = [entry for entry in json.loads(data[8:start]).values() if "data_offsets" in entry]
    (model / WEIGHTS).write_bytes(data[: start + min(e["data_offsets"][1] for e in entries)])


CASES: dict[str, tuple[Damage, str]] = {
    "config.json empty": (cut("config.json", 0), "config.json can't be read"),
    "config.json cut": (cut("config.json", 100), "config.json can't be read"),
    "config.json a list": (put("config.json", "[]"), "config.json: got list"),
    "config.json missing": (without("config.json"), "no config.json"),
    "tokenizer.json empty": (cut("tokenizer.json", 0), "unreadable tokenizer.json"),
    "tokenizer.json cut": (cut("tokenizer.json", 1000), "unreadable tokenizer.json"),
    "tokenizer.json missing": (without("tokenizer.json"), "no tokenizer.json"),
    "tokenizer_config.json cut": (
        cut("tokenizer_config.json", 50),
        "config.json can't be read",
    ),
    "generation_config.json cut": (
        cut("generation_config.json", 20),
        "config.json can't be read",
    ),
    "generation_config.json a list": (put("generation_config.json", "[]"), "got list"),
    "generation_config.json too deep": (
        put("generation_config.json", "[" * 99_999),
        "can't be read",
    ),
    "weights missing": (without(WEIGHTS), "no safetensors files"),
    "weights empty": (cut(WEIGHTS, 0), "no safetensors file"),
    "weights cut in the length": (cut(WEIGHTS, 5), "no safetensors file"),
    "weights cut in the header": (cut(WEIGHTS, 500), "no safetensors file"),
    "weights cut in the first tensor": (first_tensor, "cut short: got 10 bytes"),
    "weights cut between tensors": (between_tensors, "cut short"),
    "weights one byte short": (cut(WEIGHTS, -1), "cut short"),
    "index broken": (put(INDEX, "{"), "index.json can't be read"),
    "index without a map": (put(INDEX, "{}"), "index.json can't be read"),
    "index of a shard that is missing": (
        put(INDEX, json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-2"}})),
        "model-00001-of-2",
    ),
    "another model's weights": (
        lambda model: shutil.copy(BUNDLED / "demo-moe" / WEIGHTS, model),
        "the weights are not those of the config",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error(case: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUNDLED / "demo", model)
    damage, said = CASES[case]
    damage(model)
    result = CliRunner().invoke(app, ["generate", str(model), "hi"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and said in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
