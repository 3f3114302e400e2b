"""Names to snapshots, against a local stand-in for the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_mlx.errors import HubError, ModelNotFoundError
from qwen3_mlx.hub import download, releases, resolve
from qwen3_mlx.hub.cache import Source, cache_dir, missing_files
from qwen3_mlx.hub.ranged import first_bytes
from tests.hub_served import point_at, served
from tests.hub_stub import HubStub

SECRET = "hf_not_a_real_token"


def safetensors(size: int = 1000) -> bytes:
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    packed = json.dumps(header).encode()
    return (
        len(packed).to_bytes(8, "little") + packed + (bytes(range(256)) * (size // 256 + 1))[:size]
    )


def model_files(**extra: bytes) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(releases.RELEASES[0].config()).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model.safetensors": safetensors(),
        "README.md": b"# a model",
        **extra,
    }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    with served(tmp_path, monkeypatch) as stub:
        yield stub


# ── names ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("release", releases.RELEASES, ids=lambda release: release.alias)
def test_alias_and_full_name_mean_the_4_bit_repository(release: releases.Release) -> None:
    for name in (release.alias, release.alias.upper(), release.name, release.name.lower()):
        assert resolve.parse(name) == Source(repo=f"mlx-community/{release.name}-4bit")


def test_short_2507_means_instruct() -> None:
    for size in ("4b", "30b-a3b", "235b-a22b"):
        assert releases.find(f"{size}-2507") == releases.find(f"{size}-instruct-2507")
    assert resolve.parse("qwen3-8b-4bit").repo == "mlx-community/Qwen3-8B-4bit"


def test_repository_with_revision() -> None:
    assert resolve.parse("some-one/My.Model") == Source(repo="some-one/My.Model")
    assert resolve.parse("a/b@v1.0").revision == "v1.0"
    assert resolve.parse("a/b@refs/pr/1") == Source(repo="a/b", revision="refs/pr/1")


def test_local_directory_wins_over_an_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "8b").mkdir()
    assert resolve.parse("8b").repo  # a directory without config.json is no model
    (tmp_path / "8b" / "config.json").write_text("{}")
    assert resolve.resolve("8b") == Path("8b")
    assert resolve.resolve(str(tmp_path / "8b")) == tmp_path / "8b"


@pytest.mark.parametrize("name", ["tuned", "mine/tuned"])
@pytest.mark.parametrize("file", ["model.safetensors", "tuned-Q8_0.gguf"])
def test_a_directory_with_weights_is_meant_without_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    """It was an unknown model, or the hub was asked for a repository called like it."""
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    (Path(name) / file).touch()
    assert resolve.parse(name) == Source(path=Path(name))
    assert resolve.is_model_name(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("8bb", "8b"),
        ("qwen3-30b-a3", "30b-a3b"),
        ("demmo", "demo"),
        ("demo-mo", "did you mean demo-moe"),
        ("4b-think-2507", "4b-thinking-2507"),
        ("", "aliases: demo"),
        ("zzzzzzzz", "aliases: demo"),
        ("zzzzzzzz", "embed-0.6b"),
        ("zzzzzzzz", "rerank-8b"),
        ("/x" * 3000, "check the path"),
        ("~nobody-here/x", "check the path"),
        ("x\0y", "aliases: demo"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve.resolve(name)
    assert hint in str(caught.value.hint)


def test_missing_directory_suggests_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    with pytest.raises(ModelNotFoundError, match="my-model"):
        resolve.resolve(str(tmp_path / "my-modle"))
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelNotFoundError, match="give the directory"):
        resolve.resolve(str(file))


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("https://huggingface.co/Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("https://huggingface.co/Qwen/Qwen3-8B/", "Qwen/Qwen3-8B"),
        ("http://www.huggingface.co/Qwen/Qwen3-8B?library=mlx", "Qwen/Qwen3-8B"),
        ("huggingface.co/a/b.c/tree/main", "a/b.c"),
        ("hf.co/a/b/tree/v1", "a/b@v1"),
        ("https://huggingface.co/a/b/blob/mlx/config.json", "a/b@mlx"),
    ],
)
def test_a_page_s_address_says_which_repository_is_meant(page: str, name: str) -> None:
    """It is what a browser gives; "check the path" was no help."""
    with pytest.raises(ModelNotFoundError, match="a page is no model") as caught:
        resolve.parse(page)
    assert caught.value.hint == f"name it so: {name}"


def test_a_file_of_a_model_is_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``mine/config.json`` has a repository's form, and was asked of the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("config.json", "model.safetensors"):
        assert resolve.parse(f"mine/{name}").repo  # a repository may be called so
        (tmp_path / "mine" / name).write_text("{}")
        with pytest.raises(ModelNotFoundError, match="a file is no model directory") as caught:
            resolve.parse(f"mine/{name}")
        assert caught.value.hint == "give the directory that holds it: mine"


def test_form_of_a_model_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    for name in ("demo", "8B", "qwen3-8b", "a/b", "a/b@c", "./x", "/x", str(tmp_path)):
        assert resolve.is_model_name(name), name
    for text in (
        *("hello", "What is 17 * 23?", "and/or what?", "x" * 5000, "/" * 5000 + " x", "12"),
        *("/think", "/no_think", "/no_think 2 + 2?", "./x is what?", ".NET?", "\0"),
    ):
        assert not resolve.is_model_name(text), text


def test_cache_is_where_huggingface_hub_looks(tmp_path: Path) -> None:
    code = (
        "from huggingface_hub import constants as c; from qwen3_mlx.hub.cache import cache_dir\n"
        "assert str(cache_dir()) == c.HF_HUB_CACHE, (cache_dir(), c.HF_HUB_CACHE)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG"))}
    for extra in ({}, {"HF_HOME": "/x/y"}, {"XDG_CACHE_HOME": "/z"}, {"HF_HUB_CACHE": "~/w"}):
        subprocess.run([sys.executable, "-c", code], check=True, env=clean | extra)


# ── downloads ────────────────────────────────────────────────────────────────────────────────


def test_download_once_then_offline(server: HubStub) -> None:
    files = model_files(**{"pytorch_model.bin": b"pickle", "modeling.py": b"code", "a.png": b"x"})
    server.add("mlx-community/Qwen3-0.6B-4bit", files)
    assert resolve.find_local("0.6b") is None
    path = resolve.resolve("0.6b")
    assert {file.name for file in path.iterdir()} == set(model_files())
    assert not {"pytorch_model.bin", "modeling.py", "a.png"} & set(server.fetched())

    server.requests.clear()
    assert resolve.resolve("qwen3-0.6B") == path == resolve.find_local("0.6b")
    assert resolve.resolve(f"mlx-community/Qwen3-0.6B-4bit@{path.name}") == path
    assert server.requests == []


def test_a_cut_connection_resumes_where_it_broke(
    server: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    repo = server.add("a/b", model_files(), cuts={"model.safetensors": [300]})
    path = resolve.resolve("a/b")
    assert (path / "model.safetensors").read_bytes() == repo.files["model.safetensors"]
    ranges = [r.range for r in server.requests if "model.safetensors" in r.path and r.sent]
    assert ranges == [None, "bytes=300-"]


def test_a_connection_that_breaks_in_a_header_is_tried_once_more(server: HubStub) -> None:
    from huggingface_hub import hf_hub_url

    data = model_files()["model.safetensors"]
    cuts = {"model.safetensors": [5]}
    repo = server.add("a/b", model_files(), cuts=cuts)
    assert first_bytes(hf_hub_url("a/b", "model.safetensors"), 50) == data[:50]
    assert not repo.cuts["model.safetensors"]
    repo.cuts["model.safetensors"] = [5, 5]
    with pytest.raises(Exception, match=r"peer|reset|closed"):
        first_bytes(hf_hub_url("a/b", "model.safetensors"), 50)


def test_a_network_that_dies_for_good(server: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    server.add("a/b", model_files(), cuts={"model.safetensors": [300] * 10})
    with pytest.raises(HubError, match=r"1 files missing: model\.safetensors") as caught:
        resolve.resolve("a/b")
    assert "resumes" in str(caught.value.hint)


def test_partial_snapshot_is_completed_or_named(
    server: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": safetensors(256 * i) for i in (1, 2)}
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(shards)}}
    files = model_files() | shards | {"model.safetensors.index.json": json.dumps(index).encode()}
    del files["model.safetensors"]
    server.add("a/b", files)
    path = resolve.resolve("a/b")
    (path / "model-00002-of-00002.safetensors").resolve().unlink()
    assert missing_files(path) == ["model-00002-of-00002.safetensors"]
    assert resolve.find_local("a/b") is None

    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"only in part.*\n?.*model-00002-of-00002") as caught:
        resolve.resolve("a/b")
    assert "resumes" in str(caught.value.hint)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert missing_files(resolve.resolve("a/b")) == []
    (path / "model.safetensors.index.json").unlink()  # the shards' own names say how many
    (path.parent.parent / "trees" / f"{path.name}.json").unlink(missing_ok=True)
    assert missing_files(path) == []


def test_listed_files_count_too(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (snapshot / name).touch()
    assert missing_files(snapshot) == []
    (tmp_path / "trees").mkdir()
    listing = {"files": {"chat_template.jinja": {}, "config.json": {}, "README.md": {}}}
    (tmp_path / "trees" / f"{snapshot.name}.json").write_text(json.dumps(listing))
    assert missing_files(snapshot) == ["chat_template.jinja"]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────


def test_each_refusal_has_its_own_hint(server: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("a/gated", model_files(), gated=True)
    server.add("a/there", model_files())
    with pytest.raises(HubError, match="gated") as caught:
        resolve.resolve("a/gated")
    assert "accept its terms" in str(caught.value.hint)
    with pytest.raises(HubError, match="no such repository") as caught:
        resolve.resolve("mlx-community/Qwen3-8B-4bt")
    assert "mlx-community/Qwen3-8B-4bit" in str(caught.value.hint)
    with pytest.raises(HubError, match="no such repository") as caught:
        resolve.resolve("nobody/nothing")
    assert "private" in str(caught.value.hint)
    with pytest.raises(HubError, match="no such revision: got v9"):
        resolve.resolve("a/there@v9")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(HubError, match="401") as caught:
        resolve.resolve("a/there")
    assert "HF_TOKEN" in str(caught.value.hint) and SECRET not in str(caught.value)
    assert any(request.token == SECRET for request in server.requests)


def test_a_token_opens_what_is_gated(server: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("a/gated", model_files(), gated=True)
    server.tokens.add(SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert resolve.resolve("a/gated").is_dir()


def test_no_network(server: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(HubError, match="can't be reached") as caught:
        resolve.resolve("8b")
    assert "qwen3-mlx chat demo" in str(caught.value.hint)


def test_hub_out_of_order(server: HubStub) -> None:
    server.broken = 500
    with pytest.raises(HubError, match="HTTP 500"):
        resolve.resolve("a/b")


def test_pickle_only_repository(server: HubStub) -> None:
    files = model_files(**{"pytorch_model.bin": b"pickle"})
    del files["model.safetensors"]
    server.add("a/pickle", files)
    with pytest.raises(HubError, match=r"no model\.safetensors"):
        resolve.resolve("a/pickle")


def test_full_disk(server: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(HubError, match="disk is full") as caught:
        resolve.resolve("a/b")
    assert str(cache_dir()) in str(caught.value)


# ── before a download ────────────────────────────────────────────────────────────────────────


def test_describe_asks_for_headers_only(server: HubStub) -> None:
    server.add("a/b", model_files(**{"model.safetensors": safetensors(5_000_000)}))
    found = download.describe(resolve.parse("a/b"))
    assert found.tensors is not None and found.tensors["w"].nbytes == 5_000_000
    assert found.config["model_type"] == "qwen3"
    assert sum(request.sent for request in server.requests) < 150_000


def test_describe_a_release_offline(server: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    found = download.describe(resolve.parse("235b-a22b"))
    assert found.config["num_experts"] == 128 and found.tensors is None
    with pytest.raises(HubError, match="can't be reached"):
        download.describe(resolve.parse("a/b"))


def test_published_shapes_are_the_released_ones(qwen3_files: Path) -> None:
    for release in releases.RELEASES:
        file = qwen3_files / "configs" / f"{release.name}.json"
        if file.exists():
            released = json.loads(file.read_text())
            ours = release.config()
            del ours["quantization"]
            assert ours == {key: released[key] for key in ours}, release.name


def test_a_bundled_model_that_is_not_there_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A zip of the package has no files to load; "unknown model: got 'demo'" told nothing."""
    monkeypatch.setattr(resolve, "bundled", list)
    with pytest.raises(ModelNotFoundError, match="the bundled demo-moe isn't there") as found:
        resolve.parse("demo-moe")
    assert "zip" in str(found.value.hint)
