"""`models`: what is on this machine, how big it is, and whether it fits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import gb
from qwen3_mlx.fit import inequality, machine
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.hub import releases

COMMIT = "0123456789" * 4
ROOT = Path(__file__).parents[3]
DEMOS = {"demo", "demo-moe", "demo-tools"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's."""
    folder = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


def write_model(folder: Path, values: dict[str, Any]) -> Path:
    """A model's files at their real sizes, with holes for the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    weights = inequality.weights_from_config(Qwen3Config.from_dict(values))
    packed, end = weights.packed_bytes, weights.stored_bytes
    header = {"q": {"dtype": "U8", "shape": [packed], "data_offsets": [0, packed]}}
    header["f"] = {"dtype": "BF16", "shape": [weights.floats], "data_offsets": [packed, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return folder


def cached(
    cache: Path, repo: str, values: dict[str, Any] | None = None, revision: str = "main"
) -> Path:
    """A snapshot in the cache, as `huggingface_hub` lays it out."""
    base = cache / f"models--{repo.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / revision).write_text(COMMIT)
    return write_model(base / "snapshots" / COMMIT, values or releases.RELEASES[0].config())


def rows(cli: Any, *arguments: object) -> dict[str, dict[str, Any]]:
    result = cli("models", *map(str, arguments), "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["available"] and found["available_bytes"] > 0
    return {model["name"]: model for model in found["models"]}


def test_the_demos_alone(cli: Any, cache: Path) -> None:
    text = cli("models", "--memory", "16").stdout
    head, demo, experts, tools, _, available, hint = text.splitlines()
    assert head.split() == ["MODEL", "SIZE", "BITS", "PARAMETERS", "CONTEXT"]
    assert " ".join(demo.split()) == "demo 11.7 MB 16.0 5.8 M 4,096 fits with 4.1k of context"
    want = "demo-moe 11.0 MB 16.0 5.5 M, 2.5 M active 4,096 fits with 4.1k of context"
    assert " ".join(experts.split()) == want
    want = "demo-tools 3.5 MB 4.7 5.8 M 4,096 fits with 4.1k of context"
    assert " ".join(tools.split()) == want
    assert available.startswith("available: 11.5 GB, 2/3 of 16 GB")
    assert hint.endswith("qwen3-mlx chat 4b (2.3 GB)")


def test_a_cached_model_as_info_sees_it(cli: Any, cache: Path) -> None:
    cached(cache, "mlx-community/Qwen3-8B-4bit", releases.find("8b").config())
    text = cli("models", "--memory", "64").stdout
    row = next(line for line in text.splitlines() if line.startswith("8b"))
    assert " ".join(row.split()) == "8b 4.6 GB 4.5 8.2 B 32,768 fits with 32.8k of context"
    assert "no real model" not in text
    ours = rows(cli, "--memory", 16, "--context", 8192)["8b"]
    arguments = ("--memory", "16", "--context", "8192", "--json")
    theirs = json.loads(cli("info", "8b", *arguments).stdout)
    same = set(ours) & set(theirs)
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert {"fits", "required_bytes", "parameters", "weight_bytes", "context"} <= same
    assert ours["quantization"] == {"bits": 4, "group_size": 64}
    assert ours["local"] and ours["path"] == theirs["where"]


def test_a_machine_too_small(cli: Any, cache: Path) -> None:
    cached(cache, "mlx-community/Qwen3-8B-4bit", releases.find("8b").config())
    cached(cache, "mlx-community/Qwen3-30B-A3B-4bit", releases.find("30b-a3b").config())
    text = cli("models", "--memory", "8", "--context", "32768").stdout
    assert re.search(
        r"8\.2 B .* does not fit: needs [\d.]+ GB, has 5\.7 GB; would with [\d.]+k of", text
    )
    assert re.search(
        r"30\.5 B, 3\.4 B active .* does not fit: needs [\d.]+ GB, has 5\.7 GB\n", text
    )


def test_this_machine_without_mlx(cli: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Machine(10**9, "free memory of this machine", float_bytes=4, fused_attention=False)
    monkeypatch.setattr(machine, "quick_machine", lambda: place)
    assert "available: 1.0 GB, free memory of this machine" in cli("models").stdout


def test_a_glance_is_what_mlx_says(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "darwin":
        assert machine.quick_machine().available_bytes <= machine.this_machine().available_bytes
        return
    monkeypatch.setattr(machine, "_main_memory", lambda: Machine(5, "here"))
    mx.clear_cache()  # what other tests left there would count as free
    assert machine.quick_machine() == machine.this_machine()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: str(path) == "/proc/driver/nvidia/version")
        patch.setattr(machine, "this_machine", lambda: Machine(7, "a GPU"))
        assert machine.quick_machine().why == "a GPU"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "sysconf", lambda name: 2**17)
    assert machine.quick_machine() == machine.mac(16)


def _without_a_shard(snapshot: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model.safetensors").unlink()  # a whole one would win


def _cut_short(snapshot: Path) -> None:
    with (snapshot / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)


def _fp8(snapshot: Path) -> None:
    values = releases.RELEASES[0].config() | {"quantization_config": {"quant_method": "fp8"}}
    del values["quantization"]
    (snapshot / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: (s / "tokenizer.json").unlink(), "incomplete: tokenizer.json missing"),
        (lambda s: (s / "config.json").unlink(), "incomplete: config.json missing"),
        (_without_a_shard, "incomplete: model-00001-of-00002.safetensors and 1 more missing"),
        (_cut_short, "model.safetensors is cut short"),
        (lambda s: (s / "config.json").write_text("{"), "config.json can't be read"),
        (lambda s: (s / "config.json").write_text("[]"), "expected a JSON object"),
        (_fp8, "fp8"),
    ],
)
def test_what_can_not_be_used_is_listed_with_the_reason(
    cli: Any, cache: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(cached(cache, "Qwen/Qwen3-0.6B"))
    found = rows(cli)
    assert reason in found["Qwen/Qwen3-0.6B"]["problem"]
    assert "fits" not in found["Qwen/Qwen3-0.6B"]
    result = cli("models")
    assert result.exit_code == 0 and reason in result.stdout
    goes_on = "fetched to its end with: qwen3-mlx chat MODEL" in result.stdout
    assert goes_on == reason.startswith("incomplete")


def test_a_snapshot_of_another_user(cli: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(snapshot: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(snapshot))

    cached(cache, "Qwen/Qwen3-0.6B")
    cached(cache, "meta/Llama-3")
    monkeypatch.setattr("qwen3_mlx.hub.cache.missing_files", refuse)
    found = rows(cli)
    assert set(found) == {*DEMOS, "Qwen/Qwen3-0.6B"}
    assert found["Qwen/Qwen3-0.6B"]["problem"] == "can't be read: Permission denied"


def test_the_cache_has_other_things_too(cli: Any, cache: Path) -> None:
    cached(cache, "meta/Llama-3", {**releases.RELEASES[0].config(), "model_type": "qwen3"})
    (cache / "models--meta--Llama-3" / "snapshots" / COMMIT / "config.json").write_text(
        '{"model_type": "llama"}'
    )
    cached(cache, "me/Qwen3-tuned", revision="v2")
    (cache / "models--Qwen--Qwen3-4B" / "refs").mkdir(parents=True)
    (cache / "models--someone--else" / "snapshots").mkdir(parents=True)
    (cache / "datasets--a--Qwen3").mkdir()
    (cache / "models--odd").mkdir()
    (cache / "version.txt").write_text("1")
    found = rows(cli)
    assert set(found) == {*DEMOS, "me/Qwen3-tuned@v2", "Qwen/Qwen3-4B"}
    assert found["Qwen/Qwen3-4B"]["problem"] == "a download that broke off"
    assert not found["me/Qwen3-tuned@v2"]["problem"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 kB"),
        (1, "1 kB"),
        (99_999, "100 kB"),
        (11_739_915, "11.7 MB"),
        (4_607_732_238, "4.6 GB"),
    ],
)
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    assert gb(size) == text


def test_two_names_of_one_snapshot_are_one(cli: Any, cache: Path) -> None:
    snapshot = cached(cache, "me/Qwen3-x")
    (snapshot.parents[1] / "refs" / "a").write_text(COMMIT)
    (snapshot.parents[1] / "refs" / "odd").write_bytes(b"\xff")
    (snapshot.parent / ("f" * 8)).mkdir()
    (snapshot.parent / ("f" * 8) / "config.json").symlink_to("gone")
    assert set(rows(cli)) == {*DEMOS, "me/Qwen3-x", f"me/Qwen3-x@{'f' * 8}"}


def test_directories(cli: Any, cache: Path, tmp_path: Path) -> None:
    values = releases.RELEASES[0].config()
    mine = write_model(tmp_path / "models" / "owner" / "mine", values)
    write_model(tmp_path / "models" / "a" / "b" / "too-deep", values)
    write_model(tmp_path / "models" / ".hidden", values)
    (tmp_path / "models" / "llama").mkdir()
    (tmp_path / "models" / "llama" / "config.json").write_text('{"model_type": "llama"}')
    for named in (tmp_path / "models", mine.parent, mine):
        assert set(rows(cli, named)) == {*DEMOS, str(mine)}
    result = cli("models", str(tmp_path / "nowhere"))
    assert result.exit_code == 1 and "no such directory" in result.stderr
    assert "no real model" not in cli("models", str(mine)).stdout


def test_all_adds_what_is_not_here(cli: Any, cache: Path) -> None:
    cached(cache, "mlx-community/Qwen3-8B-4bit", releases.find("8b").config())
    found = rows(cli, "--all", "--memory", 16)
    everything = (*releases.RELEASES, *releases.RETRIEVAL)
    elsewhere = [release.alias for release in everything if release.alias != "8b"]
    assert list(found) == ["demo", "demo-moe", "demo-tools", "8b", *elsewhere]
    assert not found["4b"]["local"] and found["4b"]["path"] is None
    assert found["4b"]["disk_bytes"] == found["4b"]["weight_bytes"] == 2_262_920_192
    text = cli("models", "--all", "--memory", "16").stdout
    assert text.count("\n8b ") == 1
    here, elsewhere = text.split("to be downloaded with `qwen3-mlx chat MODEL`:\n")
    assert "\n8b " in here and "\n14b " in f"\n{elsewhere}"


def test_a_context_some_can_not_have(cli: Any, cache: Path) -> None:
    found = rows(cli, "--context", 9_999_999, "--memory", 512, "--all")
    assert all("context: got 9999999" in model["problem"] for model in found.values())
    for arguments in (["--context", "0"], ["--memory", "-1"], ["--memory", "nan"]):
        assert cli("models", *arguments).exit_code == 1


def test_neither_mlx_nor_the_hub_is_needed(cache: Path) -> None:
    code = (
        "import sys; from qwen3_mlx.cli.app import app\n"
        "try: app(['models', '--all', '--memory', '16'])\n"
        "except SystemExit: pass\n"
        "heavy = {'mlx', 'transformers', 'huggingface_hub', 'textual'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "coder-480b" in done.stdout
    assert done.stderr.split() == []
