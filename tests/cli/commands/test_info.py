"""`info`: the sizes and the inequality, for directories, repositories and aliases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import HubError
from qwen3_mlx.fit import machine
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.hub import cache, download, releases

KEYS = {
    "model_type",
    "parameters",
    "active_parameters",
    "weight_bytes",
    "kv_bytes_per_token",
    "native_context",
    "context",
    "fits",
    "required_bytes",
    "available_bytes",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The 8B's config alone, 4 bits."""
    (tmp_path / "config.json").write_text(json.dumps(releases.find("8b").config()))
    return tmp_path


def as_json(cli: Any, *arguments: object) -> dict[str, Any]:
    result = cli("info", *map(str, arguments), "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_json_of_a_directory_with_only_a_config(cli: Any, model: Path) -> None:
    found = as_json(cli, model, "--memory", 16)
    assert set(found) >= KEYS
    assert found["model_type"] == "qwen3"
    assert found["parameters"] == found["active_parameters"] == 8_190_735_360
    assert found["weight_bytes"] == 4_607_731_712
    assert found["kv_bytes_per_token"] == 147_456
    assert (found["native_context"], found["context"]) == (32_768, 4096)
    assert found["available_bytes"] == 2 * 16 * 2**30 // 3
    assert found["required_bytes"] == sum(found["required"].values())
    assert found["fits"] is True


def test_options_enter_the_sum(cli: Any, model: Path) -> None:
    base = as_json(cli, model, "--memory", 16)
    longer = as_json(cli, model, "--memory", 16, "--context", 32_768)
    assert longer["context"] == 32_768
    assert longer["required"]["kv"] == 8 * base["required"]["kv"]
    packed = as_json(cli, model, "--memory", 16, "--kv-bits", 8)
    assert packed["kv_bytes_per_token"] == 147_456 * (8 + 0.5) / 16
    assert as_json(cli, model, "--memory", 4)["fits"] is False


def test_headers_win_over_the_config(cli: Any, model: Path) -> None:
    entry = {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}
    header = json.dumps({"w": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(1000)
    (model / "model.safetensors").write_bytes(data)
    assert as_json(cli, model, "--memory", 16)["weight_bytes"] == 1000
    (model / "model.safetensors").write_bytes(data[:500])
    result = cli("info", str(model))
    assert result.exit_code == 1 and "cut short" in result.stderr


def test_for_people(cli: Any, model: Path) -> None:
    text = cli("info", str(model), "--memory", "16").stdout
    assert "qwen3: 36 layers, width 4,096, 32 query and 8 key-value heads of 128" in text
    assert "8.19 B   8,190,735,360" in text and "4 bits in groups of 64" in text
    assert "4.6 GB weights + 0.6 GB KV at 4,096 tokens" in text
    assert "≤ 11.5 GB available: fits" in text
    assert "longest native context that fits: 32,768 tokens" in text
    assert "for each token" not in text


def test_what_would_fit(cli: Any) -> None:
    text = cli("info", "30b", "--memory", "24").stdout
    assert "does not fit" in text and "3.35 B   3,353,032,704" in text
    assert "of 17.2 GB: 1.6 GB too much" in text
    assert "the model 14b (8.3 GB at 4 bits)" in text and "qwen3-mlx chat 14b" in text
    assert "this model on a Mac with 32 GB" in text
    text = cli("info", "8b", "--memory", "16", "--context", "131072").stdout
    assert "a context of 32,768 tokens" in text
    assert (
        "no single Mac" in cli("info", "coder-480b", "--memory", "8", "--context", "1000000").stdout
    )


def test_unquantized_weights(cli: Any, model: Path) -> None:
    values = releases.find("8b").config()
    del values["quantization"]
    (model / "config.json").write_text(json.dumps(values))
    text = cli("info", str(model), "--memory", "16").stdout
    assert "16.00 bits a weight" in text
    assert "the weights in 8bit (8.7 GB)" in text and "--recipe 8bit" in text


def test_this_machine_says_what_it_counts(
    cli: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Machine(10**9, "free memory of this machine", float_bytes=4, fused_attention=False)
    monkeypatch.setattr(machine, "this_machine", lambda: place)
    found = as_json(cli, model)
    assert found["available"] == "free memory of this machine"
    assert found["required"]["weights"] > found["weight_bytes"]


def test_an_alias_that_is_not_here_asks_for_headers_only(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def describe(source: cache.Source) -> download.Description:
        asked.append(source.repo)
        tensors = {"w": download.Tensor("U32", (10,), 40)}
        return download.Description("on the hub", releases.find("8b").config(), tensors)

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "describe", describe)
    assert as_json(cli, "qwen3-8b", "--memory", 16)["weight_bytes"] == 40
    assert asked == ["mlx-community/Qwen3-8B-4bit"]

    def gated(_source: cache.Source) -> download.Description:
        raise HubError("a/b is gated", hint="accept its terms")

    monkeypatch.setattr(download, "describe", gated)
    assert cli("info", "a/b").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "0"], "error: --context: got 0"),
        (["--context", "99999999"], "error: --context: got 99999999"),
        (["--kv-bits", "3"], "error: --kv-bits: got 3"),
        (["--memory", "-1"], "error: --memory: got -1"),
        (["--memory", "nan"], "error: --memory: got nan"),
    ],
)
def test_bad_numbers(cli: Any, model: Path, arguments: list[str], message: str) -> None:
    result = cli("info", str(model), *arguments)
    assert result.exit_code == 1 and message in result.stderr and result.stdout == ""


def test_a_llama_is_refused(cli: Any, model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "llama"}')
    result = cli("info", str(model))
    assert result.exit_code == 1
    assert "model_type: got 'llama'" in result.stderr and "hint: " in result.stderr
