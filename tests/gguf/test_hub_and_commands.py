"""GGUF by name: repositories with many quantizations, the commands, the real vocabulary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.cli.commands.info import gather, lines
from qwen3_mlx.errors import HubError, ModelNotFoundError
from qwen3_mlx.gguf import folder
from qwen3_mlx.hub import installed, kinds, resolve
from qwen3_mlx.text import ChatTemplate, Tokenizer
from tests.gguf import files
from tests.hub_served import served
from tests.hub_stub import HubStub

ROOT = Path(__file__).parents[2]
REPO = "someone/Qwen3-tiny-GGUF"


def run(*words: str) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "tests.quantize.program", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "home"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    with served(tmp_path, monkeypatch) as stub:
        made: dict[str, bytes] = {"README.md": b"# GGUF", "params": b"{}"}
        for kind in ("Q4_K", "Q8_0"):
            model = files.model(files.DENSE_CONFIG, files.always(kind))
            name = {"Q4_K": "Q4_K_M"}.get(kind, kind)
            made[f"Qwen3-tiny-{name}.gguf"] = files.as_bytes(model.metadata, model.tensors)
        (tmp_path / "split").mkdir()
        model = files.model(files.DENSE_CONFIG, files.always("BF16"))
        for part in files.write_split(model, tmp_path / "split", 2):
            made[f"BF16/{part.name}"] = part.read_bytes()
        stub.add(REPO, made)
        yield stub


def test_one_of_many_is_fetched(hub: HubStub) -> None:
    found = resolve.resolve(f"{REPO}:Q8_0")
    assert hub.fetched().count("Qwen3-tiny-Q8_0.gguf") == 1
    assert not [name for name in hub.fetched() if "Q4_K_M" in name or "BF16" in name]
    asked = len(hub.requests)
    assert resolve.find_local(f"{REPO}:Q8_0") == found  # now it asks nobody
    assert resolve.find_local(REPO) == found  # the only one that is here
    assert resolve.find_local(f"{REPO}:Q4_K_M") is None and len(hub.requests) == asked


def test_without_a_variant_it_is_llama_cpps_own_choice(hub: HubStub) -> None:
    assert "Q4_K_M" in resolve.resolve(REPO).name


def test_parts_in_a_folder_of_their_own(hub: HubStub) -> None:
    found = resolve.resolve(f"{REPO}:BF16")
    assert sorted(file.name for file in found.glob("*.gguf"))[1] == "model-00002-of-00002.gguf"


@pytest.mark.parametrize("variant", ["Q2_K", "Q", "tiny"])
def test_a_variant_that_is_none(hub: HubStub, variant: str) -> None:
    with pytest.raises(HubError, match=r"say which: someone/Qwen3-tiny-GGUF:VARIANT"):
        resolve.resolve(f"{REPO}:{variant}")


def test_info_asks_for_the_header_alone(hub: HubStub) -> None:
    facts = gather(f"{REPO}:Q8_0", None, None, 16)
    text = "\n".join(lines(facts))
    assert "on the hub, not downloaded" in text and "9.0" in text  # 8 bits, scale and bias of 32
    whole = [r for r in hub.requests if r.method == "GET" and not r.range]
    assert not [request for request in whole if request.path.endswith("gguf")]
    here = gather(str(resolve.resolve(f"{REPO}:Q8_0")), None, None, 16)
    assert here.weights == facts.weights and here.config == facts.config


def test_a_folder_with_several_models_names_them(tmp_path: Path) -> None:
    for kind in ("Q4_K", "Q8_0"):
        files.write(files.model(files.DENSE_CONFIG, files.always(kind)), tmp_path / f"{kind}.gguf")
    with pytest.raises(ModelNotFoundError, match=r"2 GGUF models: got Q4_K\.gguf, Q8_0\.gguf"):
        resolve.resolve(f"{tmp_path}/")


def test_an_embedders_file(tmp_path: Path) -> None:
    model = files.model(files.DENSE_CONFIG, files.always("Q8_0"))
    model.metadata["qwen3.pooling_type"] = 3
    assert kinds.of_directory(folder.of(files.write(model, tmp_path / "m.gguf"))) == "embedder"


def test_the_commands_take_a_file(tmp_path: Path) -> None:
    model = files.model(files.DENSE_CONFIG, files.k_m)
    file = str(files.write(model, tmp_path / "tiny-Q4_K_M.gguf"))
    said = json.loads(run("info", file, "--json"))
    assert said["model_type"] == "qwen3" and said["findings"] == []
    reply = json.loads(run("generate", file, "hi", "--max-tokens", "4", "--json").splitlines()[-1])
    assert reply["usage"]["prompt_tokens"] > 4
    run("convert", file, "--recipe", "8bit", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_files_of_a_directory_are_listed(tmp_path: Path) -> None:
    """Each by its name; parts as one; no projector, no dot file, no other architecture."""
    shelf = tmp_path / "owner" / "shelf"
    shelf.mkdir(parents=True)
    model = files.model(files.DENSE_CONFIG, files.always("Q8_0"))
    one = files.write(model, tmp_path / "one.gguf")
    first, *_ = files.write_split(model, shelf, 2)
    other = files.model(files.DENSE_CONFIG, files.always("Q8_0"))
    other.metadata["general.architecture"] = "llama"
    files.write(other, shelf / "llama.gguf")
    (tmp_path / "cut.gguf").write_bytes(one.read_bytes()[:200])
    (tmp_path / "._one.gguf").write_bytes(b"the Finder's")
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"a projector")
    os.mkfifo(tmp_path / "pipe.gguf")
    found = {one.name: one for one in installed.in_directory(tmp_path)}
    assert {name for name, one in found.items() if not one.problem} == {str(one), str(first)}
    broken = {str(tmp_path / name) for name in ("cut.gguf", "pipe.gguf")}
    assert {name for name, one in found.items() if one.problem.startswith("can't be")} == broken
    said = json.loads(run("models", str(tmp_path), "--json"))["models"]
    rows = {row["name"]: row for row in said}
    assert rows[str(one)]["kind"] == "chat" and rows[str(one)]["fits"]
    assert rows[str(one)]["disk_bytes"] >= one.stat().st_size
    assert rows[str(first)]["parameters"] == rows[str(one)]["parameters"] > 0
    assert rows[str(tmp_path / "cut.gguf")]["disk_bytes"] == 200


def real_metadata(qwen3_files: Path) -> dict[str, Any]:
    """What llama.cpp's converter writes for Qwen3's own tokenizer."""
    described = json.loads((qwen3_files / "tokenizer.json").read_text("utf-8"))
    config = json.loads((qwen3_files / "tokenizer_config.json").read_text("utf-8"))
    tokens = [f"[PAD{n}]" for n in range(151_936)]
    kinds_of = [5] * len(tokens)
    for token, number in described["model"]["vocab"].items():
        tokens[number], kinds_of[number] = token, 1
    for added in described["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds_of[added["id"]] = 3 if added["special"] else 4
    merges = described["model"]["merges"]
    said = files.metadata(files.DENSE_CONFIG, config["chat_template"])
    return said | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds_of,
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.eos_token_id": 151_645,
        "tokenizer.ggml.bos_token_id": 151_643,
        "tokenizer.ggml.padding_token_id": 151_643,
    }


@pytest.mark.slow
def test_the_real_vocabulary_is_itself_again(tmp_path: Path, qwen3_files: Path) -> None:
    model = files.model(files.DENSE_CONFIG, files.always("Q8_0"))
    model.metadata = real_metadata(qwen3_files)
    file = files.write(model, tmp_path / "m.gguf")
    start = time.process_time()
    made = folder.of(file)
    assert time.process_time() - start < 10  # 1.5 s on a quiet machine
    got, want = Tokenizer.from_dir(made), Tokenizer.from_dir(qwen3_files)
    text = (ROOT / "qwen3_mlx" / "quantize" / "verify.txt").read_text("utf-8")
    markers, odd = "<|im_start|>user\n<think>\n</think><tool_call>", "café e\u0301 \r\n\t 1234567"
    for piece in (text, markers, odd):
        assert got.encode(piece) == want.encode(piece)
        assert got.decode(got.encode(piece)) == want.decode(want.encode(piece))
    assert got.eos_ids == {151_645, 151_643}
    assert got.special_ids == want.special_ids and got.think_close == want.think_close
    assert ChatTemplate.from_dir(made).family == ChatTemplate.from_dir(qwen3_files).family
