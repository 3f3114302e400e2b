"""Converting from the hub: files come while they are read, and go; a stop loses little."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import CheckpointError, HubError
from qwen3_mlx.hub.cache import Source
from qwen3_mlx.hub.remote_files import MAX_FETCHED, RemoteFiles
from tests.hub_served import served
from tests.hub_stub import HubStub
from tests.quantize.build import DENSE, MOE, all_bytes, bf16_model
from tests.quantize.conftest import convert
from tests.quantize.test_kill import stop_after
from tests.tiny_tokenizer import write_tiny_tokenizer

ROOT = Path(__file__).parents[2]
REPO = "someone/tiny"
LARGE = DENSE | {"vocab_size": 4096, "num_hidden_layers": 8, "intermediate_size": 2048}
LARGE |= {"tie_word_embeddings": False}
SHARDS = 6
SHARD_BYTES = 800_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    monkeypatch.setattr("qwen3_mlx.hub.remote_files.SMALL", 100_000)  # keys and values of one head
    with served(tmp_path, monkeypatch) as stub:
        model = bf16_model(tmp_path / "here", LARGE, shards=SHARDS)
        template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        write_tiny_tokenizer(model, tokenizer_config={"chat_template": template})
        stub.add(REPO, model)
        yield stub


def streamed(out: Path, **changes: Any) -> tuple[dict[str, Any], RemoteFiles]:
    remote = RemoteFiles(Source(repo=REPO), out.with_name(f"{out.name}.source"))
    asked = {"remote": remote, "shard_bytes": SHARD_BYTES} | changes
    return convert(remote.directory, out, **asked), remote


def fetched(hub: HubStub) -> list[str]:
    """Weight files that were fetched whole, in order."""
    whole = [r for r in hub.requests if r.method == "GET" and r.path.endswith(".safetensors")]
    return [r.path.rpartition("/")[2] for r in whole if r.sent > 100_000]


def weights(directory: Path) -> dict[str, bytes]:
    gone = ("conversion.json", "README.md")  # they name the source, a folder or a repository
    return {name: data for name, data in all_bytes(directory).items() if name not in gone}


def test_the_result_is_that_of_the_whole_source(hub: HubStub, tmp_path: Path) -> None:
    record, remote = streamed(tmp_path / "out", verify=True)
    want = convert(tmp_path / "here", tmp_path / "want", shard_bytes=SHARD_BYTES, verify=True)
    assert weights(tmp_path / "out") == weights(tmp_path / "want")
    assert record["measured"] == want["measured"]
    assert record["source"]["repo"] == REPO and len(record["source"]["revision"]) == 40
    assert sorted(fetched(hub)) == sorted(set(fetched(hub)))  # each once, compared too
    assert len(fetched(hub)) == SHARDS
    remote.close()
    assert not (tmp_path / "out.source").exists() and not list(tmp_path.glob("out.*"))


def test_files_of_other_folders_are_not_the_checkpoints(hub: HubStub, tmp_path: Path) -> None:
    """A listing may name a folder of another program's weights, or a place outside."""
    files = hub.repos[REPO].files
    for name in [name for name in files if "safetensors" in name]:
        del files[name]
    files["../../../evil/model-00001-of-00001.safetensors"] = b"x" * 64
    files["onnx/model-00001-of-00001.safetensors"] = b"x" * 64
    with pytest.raises(HubError, match="no model this package can load"):
        RemoteFiles(Source(repo=REPO), tmp_path / "a" / "source")
    assert not list(tmp_path.rglob("evil"))


def test_the_disk_holds_some_files_at_a_time(hub: HubStub, tmp_path: Path) -> None:
    root, most, over = tmp_path / "out.source", [0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            used = 0
            for folder, _, names in os.walk(root):  # which bears folders that go meanwhile
                for name in names:
                    with contextlib.suppress(OSError):
                        used += 512 * Path(folder, name).lstat().st_blocks
            most[0] = max(most[0], used)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _, remote = streamed(tmp_path / "out", verify=True)
    finally:
        over.set()
        watcher.join()
    files = [len(data) for name, data in hub.repos[REPO].files.items() if "safetensors" in name]
    total, largest = sum(files), max(files)
    small = 12 * 70_000 * 2  # what stays of a file, and in blocks of the disk
    assert largest < most[0] <= remote.most_bytes + small < total
    assert remote.most_bytes == MAX_FETCHED * largest  # untied: nothing is pinned


def test_tied_embeddings_stay_and_experts_come(tmp_path: Path, hub: HubStub) -> None:
    tied = MOE | {"tie_word_embeddings": True, "num_hidden_layers": 4}
    hub.add(REPO, write_tiny_tokenizer(bf16_model(tmp_path / "moe", tied, shards=4)))
    streamed(tmp_path / "out", verify=True)
    convert(tmp_path / "moe", tmp_path / "want", shard_bytes=SHARD_BYTES)
    assert weights(tmp_path / "out") == weights(tmp_path / "want")
    first = [r for r in hub.requests if r.method == "GET" and "00001-of-00004" in r.path]
    assert len([request for request in first if not request.range]) <= 1


@pytest.mark.parametrize("shards", [1, 3])
def test_what_is_finished_is_not_fetched_again(hub: HubStub, tmp_path: Path, shards: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        streamed(tmp_path / "out", disk=stop_after(shards), verify=True)
    before = fetched(hub)
    hub.requests.clear()
    streamed(tmp_path / "out", verify=True)
    assert len(fetched(hub)) + len(set(before)) <= SHARDS + MAX_FETCHED
    convert(tmp_path / "here", tmp_path / "want", shard_bytes=SHARD_BYTES)
    assert weights(tmp_path / "out") == weights(tmp_path / "want")


def test_a_connection_that_is_cut_is_no_end(hub: HubStub, tmp_path: Path) -> None:
    names = [name for name in hub.repos[REPO].files if name.startswith("model-00003")]
    hub.repos[REPO].cuts = {names[0]: [10**9, 300_000, 200_000]}  # the header comes first
    streamed(tmp_path / "out")
    assert not hub.repos[REPO].cuts[names[0]]
    convert(tmp_path / "here", tmp_path / "want", shard_bytes=SHARD_BYTES)
    assert weights(tmp_path / "out") == weights(tmp_path / "want")


def test_a_file_that_is_not_the_published_one(hub: HubStub, tmp_path: Path) -> None:
    remote = RemoteFiles(Source(repo=REPO), tmp_path / "out.source")
    name = next(name for name in remote.digests if "00002-of" in name)
    remote.digests[name] = "0" * 64
    with pytest.raises(CheckpointError, match="not the file that was published"):
        convert(remote.directory, tmp_path / "out", remote=remote)
    assert not (tmp_path / "out").exists()


def test_a_repository_without_weights(hub: HubStub, tmp_path: Path) -> None:
    del hub.repos[REPO].files["model-00004-of-00006.safetensors"]
    with pytest.raises(HubError, match="00004-of-00006"):
        RemoteFiles(Source(repo=REPO), tmp_path / "out.source")
    hub.repos[REPO].gated = True
    with pytest.raises(HubError, match="gated"):
        RemoteFiles(Source(repo=REPO), tmp_path / "other.source")


@pytest.mark.slow
def test_the_command_is_killed_and_goes_on(hub: HubStub, tmp_path: Path) -> None:
    """The program itself, stopped by SIGKILL once some of the source has come."""
    words = ["convert", REPO, "--out", str(tmp_path / "out"), "--shard-size", "0.0008"]
    command = [sys.executable, "-m", "tests.quantize.program", *words]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    environment["HF_HUB_CACHE"] = str(tmp_path / "cache")
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while child.poll() is None and len(fetched(hub)) < 3:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(60)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.source").is_dir()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(fetched(hub)) <= SHARDS + 1 + MAX_FETCHED
    convert(tmp_path / "here", tmp_path / "want", shard_bytes=SHARD_BYTES)
    assert weights(tmp_path / "out") == weights(tmp_path / "want")
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["measured"]
    assert not (tmp_path / "out.source").exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
