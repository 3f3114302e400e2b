"""Every pair of statements that can disagree: a finding for each, none for what agrees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from typer.testing import CliRunner

import qwen3_mlx
from qwen3_mlx import load
from qwen3_mlx.checkpoint.check import array_findings, check
from qwen3_mlx.cli.app import app
from qwen3_mlx.errors import CheckpointError, OptionError, Qwen3Error
from qwen3_mlx.hub.weight_files import INDEX
from tests.quantize.conftest import convert, request

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
PACKED = {"group_size": 64, "bits": 4}
Change = Callable[[Path], None]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "demo"))


def edit(name: str, **values: Any) -> Change:
    """Change keys of a JSON file; None takes a key away."""

    def change(folder: Path) -> None:
        file = folder / name
        old = json.loads(file.read_text()) if file.exists() else {}
        new = {key: value for key, value in (old | values).items() if value is not None}
        file.write_text(json.dumps(new))

    return change


def arrays(**changed: Any) -> Change:
    """Change arrays: a name's dots are two underscores."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        weights = dict(mx.load(str(file)))
        mx.eval(list(weights.values()))
        for name, make in changed.items():
            key = name.replace("__", ".")
            weights[key] = make(weights.get(key, weights["model.embed_tokens.weight"]))
        mx.save_safetensors(str(file), weights)

    return change


def jinja(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")


def added_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    values["added_tokens"][-1]["id"] = 9999
    file.write_text(json.dumps(values))


def moved_in_index(folder: Path) -> None:
    places = {"model.norm.weight": "model.safetensors", "model.ghost": "model.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def damaged(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


CASES: dict[str, tuple[Change, str, str]] = {
    "two packings": (
        edit("config.json", quantization=PACKED, quantization_config=PACKED | {"bits": 8}),
        "error",
        "quantization and quantization_config differ",
    ),
    "a packing of no module": (
        edit("config.json", quantization=PACKED | {"model.layers.99.x": PACKED | {"bits": 8}}),
        "warning",
        "model.layers.99.x: no such module",
    ),
    "a classifier": (
        edit("config.json", architectures=["Qwen3ForSequenceClassification"]),
        "warning",
        "no language model",
    ),
    "a mixture's class": (
        edit("config.json", architectures=["Qwen3MoeForCausalLM"]),
        "error",
        "Qwen3MoeForCausalLM and model_type qwen3",
    ),
    "layer types of another depth": (
        edit("config.json", layer_types=["full_attention"]),
        "error",
        "1 layer_types",
    ),
    "a dtype": (edit("config.json", torch_dtype="float32"), "note", "says float32"),
    "a size": (edit("config.json", intermediate_size=8), "error", "config.json makes it"),
    "a layer too many": (edit("config.json", num_hidden_layers=99), "error", "is missing"),
    "vocabulary": (edit("config.json", vocab_size=100), "error", "vocab_size 100"),
    "an added token": (added_token, "error", "is token 9999"),
    "a token's id": (
        edit("tokenizer_config.json", added_tokens_decoder={"3": {"content": "<|im_end|>"}}),
        "error",
        "'<|im_end|>' is token 3",
    ),
    "an end in words": (edit("generation_config.json", eos_token_id="2024"), "error", "token ids"),
    "an end below": (edit("generation_config.json", eos_token_id=[2024, -1]), "error", "token ids"),
    "an end that is true": (edit("generation_config.json", eos_token_id=True), "error", "True"),
    "an end in words that is not read": (edit("config.json", eos_token_id="x"), "warning", "'x'"),
    "an end beyond": (edit("generation_config.json", eos_token_id=9999), "error", "9999"),
    "an end that is no token": (edit("tokenizer_config.json", eos_token="<eos>"), "error", "<eos>"),
    "other ends": (edit("generation_config.json", eos_token_id=[1]), "warning", "different tokens"),
    "two templates": (jinja, "warning", "different templates"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "warning", "no tokenizer.json"),
    "a template of no sense": (
        edit("tokenizer_config.json", chat_template="{% for %}"),
        "warning",
        "chat template: syntax error: got line 1",
    ),
    "top_k": (edit("generation_config.json", top_k=-1), "error", "generation_config.json: top_k"),
    "top_p": (edit("generation_config.json", top_p=0), "error", "generation_config.json: top_p"),
    "an index": (moved_in_index, "warning", "no shard has: model.ghost"),
    "another head": (arrays(lm_head__weight=lambda w: w * 2), "warning", "not the embedding"),
    "a short context": (edit("tokenizer_config.json", model_max_length=7), "note", "length 7"),
    "a damaged tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("{") and None,
        "error",
        "x",
    ),
}


@pytest.mark.parametrize("model", ["demo", "demo-moe", "demo-tools"])
def test_a_sound_model_has_no_findings(model: str) -> None:
    assert check(DEMO.parent / model) == []
    assert list(array_findings(DEMO.parent / model)) == []


@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_found_and_nothing_else(demo: Path, case: str) -> None:
    change, severity, said = CASES[case]
    change(demo)
    found = check(demo)
    assert [finding.severity for finding in found][:1] == [severity], found
    assert any(said in finding.text for finding in found), found
    printed = CliRunner().invoke(app, ["info", str(demo)])
    if printed.exit_code == 0:
        assert str(found[0]) in printed.stdout
        record = json.loads(CliRunner().invoke(app, ["info", str(demo), "--json"]).stdout)
        assert {"severity": severity, "text": found[0].text} in record["findings"]


def test_the_releases_do_not_contradict_themselves(qwen3_files: Path, tmp_path: Path) -> None:
    for config in sorted((qwen3_files / "configs").glob("*.json")):
        folder = tmp_path / config.stem
        folder.mkdir()
        shutil.copy(config, folder / "config.json")
        for file in qwen3_files.glob("tokenizer*.json"):
            shutil.copy(file, folder)
        found = check(folder)
        assert [str(f) for f in found if f.severity != "note"] == []  # 2507 on 2504's tokenizer


def nan(weights: mx.array) -> mx.array:
    changed = weights.astype(mx.float32)
    changed[0, :4] = mx.nan
    return changed.astype(weights.dtype)


DOWN = "model__layers__3__mlp__down_proj__weight"


def test_a_weight_that_is_no_number(demo: Path, tmp_path: Path) -> None:
    arrays(**{DOWN: nan})(demo)
    name = DOWN.replace("__", ".")
    assert [finding.text for finding in array_findings(demo)] == [f"{name} holds NaN or infinity"]
    result = CliRunner().invoke(app, ["doctor", str(demo)])
    assert result.exit_code == 1 and name in result.stdout
    with pytest.raises(CheckpointError, match=r"computes NaN.*\n*.*doctor") as caught:
        load(str(demo)).generate("hi", max_tokens=8)
    assert "NaN" in str(caught.value)
    for verify in (True, False):
        with pytest.raises(CheckpointError, match=name):
            convert(demo, tmp_path / "out", "8bit", verify=verify)
    assert not (tmp_path / "out").exists()


def test_a_number_that_float16_cannot_hold(demo: Path, tmp_path: Path) -> None:
    arrays(**{DOWN: lambda w: mx.where(w == w, 1e5, w).astype(w.dtype)})(demo)
    convert(demo, tmp_path / "bf16", "8bit")
    with pytest.raises(CheckpointError, match="bfloat16") as caught:
        convert(demo, tmp_path / "out", "8bit", dtype=mx.float16)
    assert DOWN.replace("__", ".") in str(caught.value) and "float16" in str(caught.value)


def test_doctor_says_that_a_model_is_sound() -> None:
    result = CliRunner().invoke(app, ["doctor", "demo-moe"])
    assert result.exit_code == 0 and "arrays agree" in result.stdout


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "no safetensors files"),
        (lambda d: (d / "tokenizer.json").write_text('{"model": {}}'), "unreadable tokenizer.json"),
        (arrays(model__layers__99__x__weight=lambda w: w), "surplus model.layers.99.x.weight"),
        (
            arrays(model__layers__0__mlp__up_proj__weight=lambda w: w.astype(mx.int32)),
            "up_proj.weight has dtype I32",
        ),
    ],
)
def test_doctor_calls_nothing_sound_that_no_one_can_load(
    demo: Path, spoil: Change, said: str
) -> None:
    """Without weights, as after a lost download, every float was said to be finite."""
    spoil(demo)
    with pytest.raises(Qwen3Error):
        load(str(demo))
    result = CliRunner().invoke(app, ["doctor", str(demo)])
    assert result.exit_code == 1 and said in result.stdout


def test_convert_refuses_a_contradiction_and_passes_a_warning_on(
    demo: Path, tmp_path: Path
) -> None:
    from qwen3_mlx.quantize import job

    edit("tokenizer_config.json", eos_token="<eos>")(demo)
    with pytest.raises(CheckpointError, match="the source contradicts itself"):
        convert(demo, tmp_path / "out", "8bit")
    edit("tokenizer_config.json", eos_token="<|im_end|>")(demo)
    jinja(demo)
    found = job.prepare(request(demo, tmp_path / "out", "8bit")).findings
    assert [finding.severity for finding in found] == ["warning"]


def test_the_file_that_stops_a_generation_is_named(demo: Path) -> None:
    edit("generation_config.json", top_k=-1)(demo)
    with pytest.raises(OptionError, match=r"generation_config\.json: top_k.*got -1"):
        load(str(demo)).generate("hi", max_tokens=4)


def test_every_error_of_a_reader_is_a_finding(tmp_path: Path) -> None:
    assert [finding.severity for finding in check(tmp_path)][:1] == ["error"]
    with pytest.raises(Qwen3Error):
        load(str(tmp_path))
