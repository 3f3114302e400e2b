"""Sharded checkpoints: the index may only name plain files that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint import load_network
from tests.checkpoints import GOLDEN_BOUND, copy, expected, named, refused
from tests.oracle import assert_close


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A dense checkpoint in two shards."""
    return copy("sharded-dense", tmp_path)


FIRST, SECOND = (f"model-{i:05d}-of-00002.safetensors" for i in (1, 2))
INDEX = "model.safetensors.index.json"


def change_index(directory: Path, **names: Any) -> None:
    """Rewrite where the index says some tensors are."""
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"] |= {key.replace("__", "."): value for key, value in names.items()}
    (directory / INDEX).write_text(json.dumps(index))


def move_first_shard(directory: Path, name: str, target: Path) -> None:
    """Put the first shard at `target` and call it `name` in the index."""
    target.parent.mkdir(parents=True, exist_ok=True)
    (directory / FIRST).rename(target)
    text = (directory / INDEX).read_text()
    (directory / INDEX).write_text(text.replace(FIRST, json.dumps(name)[1:-1]))


def test_an_index_that_points_outside_is_refused_though_the_file_is_there(sharded: Path) -> None:
    outside = sharded.parent / "x.safetensors"
    move_first_shard(sharded, "../x.safetensors", outside)
    refused(sharded, "../x.safetensors")


def test_an_absolute_name_in_the_index(sharded: Path) -> None:
    outside = sharded.parent / "x.safetensors"
    move_first_shard(sharded, str(outside), outside)
    refused(sharded, str(outside))


@pytest.mark.parametrize("name", ["sub/x.safetensors", "./x.safetensors", "sub/../x.safetensors"])
def test_only_plain_names_in_the_index(sharded: Path, name: str) -> None:
    (sharded / "sub").mkdir()
    move_first_shard(sharded, name, sharded / name)
    refused(sharded, name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a\0b", "x" * 300, "..\\x.safetensors", None, 5, ["a"], {}]
)
def test_what_is_no_name_in_the_index(sharded: Path, name: Any) -> None:
    change_index(sharded, model__norm__weight=name)
    refused(sharded)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *((name, "points outside") for name in ("", ".", "..", "a/b", "a\0b", "a\ud83d", None, 5)),
        *((name, "points outside") for name in ("x" * 256, "é" * 128)),  # 256 bytes of UTF-8
        *((name, "shards are missing") for name in ("x", "..x", "x" * 255, "é" * 127)),
    ],
)
def test_a_name_in_the_index_is_a_file_s_or_none(sharded: Path, name: Any, why: str) -> None:
    change_index(sharded, model__norm__weight=name)
    refused(sharded, why)


def test_a_shard_is_missing(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    refused(sharded, SECOND, "missing", "1 of 2")


def test_a_shard_is_cut_short(sharded: Path) -> None:
    data = (sharded / SECOND).read_bytes()
    (sharded / SECOND).write_bytes(data[:-100])
    refused(sharded, SECOND)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    parts = {file: dict(mx.load(str(sharded / file))) for file in (FIRST, SECOND)}
    name = sorted(parts[FIRST])[0]
    both = parts[SECOND] | {name: mx.zeros(parts[FIRST][name].shape)}
    mx.eval(list(both.values()))
    mx.save_safetensors(str(sharded / SECOND), both)
    refused(sharded, name)


def test_a_shard_the_index_does_not_name_is_not_read(sharded: Path) -> None:
    """A second format of the same weights may lie beside the shards."""
    (sharded / "consolidated.safetensors").write_bytes(b"anything")
    load_network(sharded)


def test_a_shard_lost_from_the_index_is_missed(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    kept = {k: v for k, v in index["weight_map"].items() if v == FIRST}
    (sharded / INDEX).write_text(json.dumps({"weight_map": kept}))
    assert len(named(refused(sharded, "missing"))) == 5


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"weight_map": {}}', '{"weight_map": []}'),
        *('{"weight_map": null}', '{"weight_map": "x"}', "[" * 100_000),
    ],
    ids=lambda text: text[:24] or "empty",
)
def test_an_index_that_is_none(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded, INDEX)


def test_links_to_files_elsewhere_are_followed(sharded: Path) -> None:
    """The hub's cache is made of them: snapshots/<commit>/name -> ../../blobs/<hash>."""
    blobs = sharded.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.glob("model*"))):
        path.rename(blobs / str(number))
        path.symlink_to(Path("..") / "blobs" / str(number))
    network, _ = load_network(sharded)
    tokens, want = expected("sharded-dense")
    assert_close(network(tokens), want, bound=GOLDEN_BOUND)
