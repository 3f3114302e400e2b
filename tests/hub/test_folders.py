"""What lies in real folders, alike as a directory, in the hub's cache, and for the converter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.headers import weight_files
from qwen3_mlx.errors import CheckpointError, ConfigError, HubError, Qwen3Error
from qwen3_mlx.hub import errors
from qwen3_mlx.hub.cache import Source, complete_snapshot, missing_files
from qwen3_mlx.hub.weight_files import INDEX, choose
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.text import Tokenizer
from tests.checkpoints import GOLDEN_BOUND, copy, expected
from tests.oracle import assert_close

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
APPLE = bytes.fromhex("0005160700020000") + bytes(4088)
SHARD = "model-{:05d}-of-{:05d}.safetensors"


def dot_files(folder: Path) -> None:
    for name in ("._model.safetensors", "._config.json", "._tokenizer.json", ".x.safetensors"):
        (folder / name).write_bytes(APPLE)


def shards_without_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def one_shard_of_one(folder: Path) -> None:
    merge(folder)
    (folder / "model.safetensors").rename(folder / SHARD.format(1, 1))


def merge(folder: Path) -> None:
    """One whole file in the place of shards and index."""
    files = sorted(folder.glob("model-*"))
    tensors = {name: w for file in files for name, w in mx.load(str(file)).items()}
    mx.eval(list(tensors.values()))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    for file in (*files, folder / INDEX):
        file.unlink()


def stale_index(folder: Path) -> None:
    index = (folder / INDEX).read_text()
    merge(folder)
    (folder / INDEX).write_text(index)


def damaged_stale_index(folder: Path) -> None:
    merge(folder)
    (folder / INDEX).write_text("{")


def stray(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        merge(folder)
        mx.save_safetensors(str(folder / name), {"x.lora_a": mx.zeros((2, 2))})

    return change


def stray_beside_shards(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / "consolidated.safetensors").write_bytes(b"anything")


def another_set_of_shards(folder: Path) -> None:
    """Two of three shards, left over from an earlier save."""
    (folder / INDEX).unlink()
    for number in (1, 3):
        (folder / SHARD.format(number, 3)).write_bytes(b"anything")


def other_names(folder: Path) -> None:
    """Old MLX checkpoints call it weights."""
    merge(folder)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "adapters.safetensors").write_bytes(b"anything")


GOOD: dict[str, Callable[[Path], None]] = {
    "dot files": dot_files,
    "shards without an index": shards_without_index,
    "one shard of one": one_shard_of_one,
    "a stale index": stale_index,
    "a damaged stale index": damaged_stale_index,
    "consolidated": stray("consolidated.safetensors"),
    "mlx-lm's adapters": stray("adapters.safetensors"),
    "mlx-lm's adapters by iteration": stray("0000100_adapters.safetensors"),
    "PEFT's adapter": stray("adapter_model.safetensors"),
    "stray beside shards": stray_beside_shards,
    "another set of shards": another_set_of_shards,
    "another name": other_names,
}


def as_snapshot(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as the hub's cache keeps it: a snapshot of links."""
    base, commit = cache / "models--own--model", "a" * 40
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    snapshot = base / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return snapshot


@pytest.mark.parametrize("case", GOOD)
def test_a_folder_that_holds_a_model(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy("sharded-dense", tmp_path)
    GOOD[case](folder)
    tokens, want = expected("sharded-dense")
    assert_close(load_network(folder)[0](tokens), want, bound=GOLDEN_BOUND)
    assert open_source(folder).nbytes > 0
    snapshot = as_snapshot(folder, tmp_path / "cache", monkeypatch)
    assert complete_snapshot(Source(repo="own/model")) == snapshot
    assert_close(load_network(snapshot)[0](tokens), want, bound=GOLDEN_BOUND)


def test_what_was_passed_over_is_said(tmp_path: Path) -> None:
    said = {}
    for case, change in GOOD.items():
        folder = copy("sharded-dense", tmp_path / case)
        change(folder)
        said[case] = weight_files(folder).passed_over
    assert said["a stale index"] == (f"{INDEX}: names other files",)
    assert said["consolidated"] == ("consolidated.safetensors: a whole model.safetensors wins",)
    assert said["PEFT's adapter"] == (
        "adapter_model.safetensors: a LoRA adapter, which is not applied",
    )
    assert len(said["another set of shards"]) == 2
    assert said["dot files"] == said["shards without an index"] == ()


def test_shards_that_are_missing_are_named_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy("sharded-dense", tmp_path)
    (folder / INDEX).unlink()
    (folder / SHARD.format(2, 2)).unlink()
    for read in (load_network, open_source):
        with pytest.raises(CheckpointError, match=SHARD.format(2, 2)):
            read(folder)
    snapshot = as_snapshot(folder, tmp_path / "cache", monkeypatch)
    assert missing_files(snapshot) == [SHARD.format(2, 2)]


@pytest.mark.parametrize("leads", ["blobs/gone", "model.safetensors"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, leads: str) -> None:
    """A snapshot whose blobs were cleaned away seemed to have lost its names too."""
    folder = copy("sharded-dense", tmp_path)
    for file in (*folder.glob("model-*"), folder / INDEX):
        file.unlink()
    (folder / "model.safetensors").symlink_to(leads)
    with pytest.raises(CheckpointError, match=r"files that are gone: model\.safetensors: fetch"):
        load_network(folder)


def test_adapters_alone_are_no_model(tmp_path: Path) -> None:
    folder = copy("sharded-dense", tmp_path)
    for file in (*folder.glob("model-*"), folder / INDEX):
        file.unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match="a LoRA adapter, which is not applied"):
        load_network(folder)


def test_the_order() -> None:
    assert choose(["model.safetensors", "b.safetensors"]).names == ("model.safetensors",)
    assert choose([], ["x.safetensors"]).missing == ("x.safetensors",)
    assert choose(["model.safetensors"], ["model.safetensors"]).passed_over == ()
    assert choose(["model.fp16.safetensors", "z.safetensors"]).names == ("model.fp16.safetensors",)
    assert choose(["a-00001-of-99999.safetensors"]).names == ("a-00001-of-99999.safetensors",)
    assert choose([]).names == ()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", INDEX])
def test_a_clone_without_git_lfs(tmp_path: Path, name: str) -> None:
    golden = "sharded-dense" if name == INDEX else "dense-tied"
    folder = copy(golden, tmp_path)
    (folder / name).write_bytes(POINTER)
    reads: list[Callable[[Path], object]] = [load_network, open_source]
    for read in [Tokenizer.from_dir] if name == "tokenizer.json" else reads:
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            read(folder)
        assert "git lfs pull" in str(caught.value) and name in str(caught.value)


def failure(cause: BaseException, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Qwen3Error:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        try:
            raise cause
        except BaseException as inner:
            raise ConnectionError("the request failed") from inner
    except ConnectionError as error:
        return errors.download_error(error, Source(repo="own/model"))


def test_a_certificate_that_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in certificate chain"
    said = str(failure(OSError(text), monkeypatch, HF_ENDPOINT="https://u:secret@mirror.test"))
    assert "certificate" in said and "SSL_CERT_FILE" in said and "mirror.test" in said
    assert "secret" not in said and "check the network" not in said


def test_a_proxy_and_a_mirror_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class ProxyError(OSError):
        """As httpx, httpx2 and requests call it."""

    class UnsupportedProtocol(OSError):
        """The same."""

    said = str(failure(ProxyError("407"), monkeypatch, HTTPS_PROXY="http://u:secret@p:1"))
    assert "proxy" in said and "HTTPS_PROXY" in said and "secret" not in said
    said = str(failure(OSError("refused"), monkeypatch, HF_ENDPOINT="https://mirror.test"))
    assert "HF_ENDPOINT (https://mirror.test) can't be reached" in said
    wrong = UnsupportedProtocol("missing protocol")
    found = failure(wrong, monkeypatch, HF_ENDPOINT="mirror.test")
    assert isinstance(found, HubError) and "'mirror.test'" in str(found)
    said = str(failure(OSError("refused"), monkeypatch))
    assert "the hub can't be reached" in said


def test_copies_are_not_links(tmp_path: Path) -> None:
    """The golden is left alone by all of the above."""
    folder = copy("sharded-dense", tmp_path)
    stale_index(folder)
    other = copy("sharded-dense", tmp_path / "b")
    assert json.loads((other / INDEX).read_text())["weight_map"]
    shutil.rmtree(folder)
