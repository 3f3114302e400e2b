"""``qwen3-mlx convert`` as it is typed."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.conversion_source import original
from qwen3_mlx.config.recipes import RECIPES
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize.disk import Disk
from tests.quantize.build import DENSE, all_bytes, bf16_model
from tests.quantize.conftest import convert


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("license: other\nlicense_name: tongyi\nlicense_link: LICENSE", "license_name: tongyi\n"),
        ("license:\n  - mit", "license: mit\n"),
        ("license:\n- 'mit'\nx: y", "license: mit\n"),
        ("\ufefflicense: mit", "license: mit\n"),  # as Windows' editors write it
        ("license: mit\r\nx: y\r", "license: mit\n"),
    ],
)
def test_the_licence_is_that_of_the_source(dense: Path, place: Path, front: str, said: str) -> None:
    mark = "\ufeff" if front.startswith("\ufeff") else ""
    text = f"{mark}---\n{front.lstrip(mark) if mark else front}\n---\n# it\n"
    (dense / "README.md").write_bytes(text.encode())
    assert f"\n{said}" in run("dense", "--dry-run").stdout


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, and no way to the network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["convert", *arguments])


def test_ctrl_c_says_how_to_go_on(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create, opened = Disk.create, list[str]()

    def pressed(disk: Disk, path: Path, *, append: bool = False) -> Any:
        opened.append(path.name)
        if ".safetensors." in path.name:
            raise KeyboardInterrupt
        return create(disk, path, append=append)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "create", pressed)
        done = run("dense", "--recipe", "8bit")
    assert done.exit_code == 130 and opened
    assert "dense-8bit.part keeps what is done" in done.stderr
    assert "the same command goes on" in done.stderr
    assert run("dense", "--recipe", "8bit").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        done = run("dense", "--recipe", "4bit")
    assert done.exit_code == 130 and "keeps" not in done.stderr, "nothing was begun"


def test_list() -> None:
    done = run("--list")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in RECIPES)


def test_no_source_is_wrong_usage() -> None:
    assert run().exit_code == 2


def test_from_end_to_end(dense: Path, place: Path) -> None:
    done = run("dense", "--recipe", "8bit")
    assert done.exit_code == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("dense-8bit: 0.4 MB, ") and first.endswith("bits a weight")
    assert second.startswith("compared with the source: KL divergence ")
    record = json.loads((place / "dense-8bit" / "conversion.json").read_text())
    assert record["command"] == "qwen3-mlx convert dense --out dense-8bit --recipe 8bit"
    assert record["recipe"]["bound"] == RECIPES["8bit"].bound
    card = (place / "dense-8bit" / "README.md").read_text()
    assert record["command"] in card and str(record["measured"]["kl_mean"]) in card
    again = run("dense", "--recipe", "8bit")
    assert (again.exit_code, again.stdout) == (0, done.stdout)
    other = run("dense", "--recipe", "4bit", "--out", "dense-8bit")
    assert other.exit_code == 1 and "--force" in other.stderr
    assert run("dense", "--recipe", "4bit", "--out", "dense-8bit", "--force").exit_code == 0


def test_the_recorded_command_makes_the_same_bytes(dense: Path, place: Path) -> None:
    arguments = ["dense", "--dtype", "float16", "--recipe", "dynamic", "--target", "6.5"]
    assert run(*arguments, "--shard-size", "0.0001").exit_code == 0
    before = all_bytes(place / "dense-dynamic")
    command = json.loads(before["conversion.json"])["command"].split()
    (place / "dense-dynamic").rename(place / "kept")
    assert run(*command[2:]).exit_code == 0
    assert all_bytes(place / "dense-dynamic") == before


def test_a_dry_run_writes_nothing_and_shows_all(dense: Path, place: Path) -> None:
    before = sorted(place.rglob("*"))
    done = run("dense", "--recipe", "mixed-4-6", "--dry-run", "--upload", "me/tiny")
    assert done.exit_code == 0, done.stderr
    assert sorted(place.rglob("*")) == before
    assert done.stdout.startswith("would write dense-mixed-4-6, then me/tiny: ")
    convert(dense, place / "out", "mixed-4-6")
    for name, data in all_bytes(place / "out").items():
        if name not in ("README.md", "conversion.json"):
            assert f"{name}  " in done.stdout and f"{len(data):,}\n" in done.stdout
    for said in ("# me/tiny", "Recipe: mixed-4-6", "Not measured", "| 8 GB |", "pip install"):
        assert said in done.stdout
    assert "attention: values | 6 g64" in done.stdout


def test_the_card_has_what_a_reader_needs(dense: Path, place: Path) -> None:
    """As for a source in the hub's cache: repository, commit, licence."""
    snapshot = place / "models--Qwen--Qwen3-0.6B" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    dense.rename(snapshot)
    (snapshot / "README.md").write_text(
        "---\nlicense: apache-2.0\nlicense_link: https://huggingface.co/Qwen/Qwen3-0.6B/LICENSE\n"
        "base_model:\n- Qwen/Qwen3-0.6B-Base\n---\n# Qwen3"
    )
    assert run(str(snapshot), "--out", "out", "--upload", "me/tiny", "--dry-run").exit_code == 0
    assert run(str(snapshot), "--out", "out").exit_code == 0
    card = (place / "out" / "README.md").read_text()
    front = card.split("---\n")[1]
    for line in (
        *("library_name: mlx", "license: apache-2.0", "- Qwen/Qwen3-0.6B"),
        "base_model_relation: quantized",
        "license_link: https://huggingface.co/Qwen/Qwen3-0.6B/LICENSE",
    ):
        assert line in front.splitlines()
    for said in (
        "[Qwen/Qwen3-0.6B](https://huggingface.co/Qwen/Qwen3-0.6B)",
        f"revision `{'a' * 40}`",
        "itself made from Qwen/Qwen3-0.6B-Base",
        "KL divergence, mean",
        "perplexity of this",
        "qwen3-mlx convert Qwen/Qwen3-0.6B@" + "a" * 40 + " --out out --recipe 4bit",
        "| the token embedding where it is the head too | 6 g64 | 65,536 | ",
    ):
        assert said in card, said


def test_presets_and_budget_are_those_of_the_family(
    dense: Path, place: Path, qwen3_files: Path
) -> None:
    from qwen3_mlx.quantize.card import family_of

    assert family_of(qwen3_files) == "hybrid"
    real = json.loads((qwen3_files / "tokenizer_config.json").read_text("utf-8"))
    del real["added_tokens_decoder"]  # the ids are those of the real tokenizer.json
    (dense / "tokenizer_config.json").write_text(json.dumps(real))
    done = run("dense", "--dry-run")
    assert "| thinking | 0.6 | 0.95 | 20 | 1.0 |" in done.stdout
    assert "| not thinking | 0.7 | 0.8 | 20 | 1.0 |" in done.stdout
    assert "--budget 1024" in done.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["dense", "--recipe", "q4_k_m"], "unknown recipe: got 'q4_k_m'"),
        (["dense", "--recipe", "none.toml"], "none.toml can't be read"),
        (["dense", "--dtype", "int8"], "--dtype: got 'int8'"),
        (["dense", "--shard-size", "0"], "--shard-size"),
        (["dense", "--target", "5"], "has no target"),
        (["dense", "--recipe", "dynamic", "--target", "99"], "--target"),
        (["dense", "--recipe", "dynamic", "--target", "3"], "target: got 3.0 bits a weight"),
        (["dense", "--learned", "magic"], "--learned: got 'magic'"),
        (["dense", "--upload", "no owner"], "--upload"),
        (["dense", "--upload", "me/tiny"], "needs a token in HF_TOKEN"),
        (["dense", "--upload", "me/tiny", "--no-verify"], "publishes what was compared"),
        (["dense", "--upload", "me/tiny", "--no-verify", "--force"], "needs a token in HF_TOKEN"),
        (["dense", "--private"], "--private without --upload"),
        (["dense", "--revision", "4bit"], "--revision without --upload"),
        (["dense", "--shares", "2", "--private"], "--private without --upload"),
        (["no-such-model"], "unknown model"),
        (["8b", "--dry-run"], "not on this machine: got Qwen/Qwen3-8B"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    dense: Path, place: Path, arguments: list[str], said: str
) -> None:
    done = run(*arguments)
    assert done.exit_code == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in place.iterdir()) == ["dense"]


def test_a_recipe_file_works_like_a_recipe(dense: Path, place: Path) -> None:
    (place / "mine.toml").write_text("[bits]\ndefault = 5\nv = 8\n")
    done = run("dense", "--recipe", "mine.toml", "--no-verify")
    assert done.exit_code == 0, done.stderr
    assert "not compared with the source" in done.stdout
    values = json.loads((place / "dense-mine" / "config.json").read_text())
    assert values["quantization"]["bits"] == 5
    assert values["quantization"]["model.layers.0.self_attn.v_proj"]["bits"] == 8


def test_an_alias_means_the_original_here(place: Path) -> None:
    assert original("8b") == "Qwen/Qwen3-8B"
    assert original("coder-30b") == "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    assert original("me/tuned") == "me/tuned"
    bf16_model(place / "8b", DENSE)
    assert original("8b") == "8b"  # a directory of that name is meant first


def test_the_bundled_demo_can_be_converted(place: Path) -> None:
    done = run("demo", "--recipe", "8bit", "--out", "demo-8bit")
    assert done.exit_code == 0, done.stderr
    from qwen3_mlx import load

    reply = load(str(place / "demo-8bit")).generate("What is 17 * 23?", thinking_budget=128)
    assert reply.answer
    assert resolve.resolve("demo") != place / "demo-8bit"
