"""What a model is for, by its files and its name; the aliases of those that write no text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import OptionError
from qwen3_mlx.hub import kinds, releases, resolve


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Qwen/Qwen3-Embedding-8B", "embedder"),
        ("mlx-community/qwen3-embedding-0.6b-4bit-DWQ", "embedder"),
        ("Qwen/Qwen3-Reranker-4B", "reranker"),
        ("Qwen/Qwen3-8B", "chat"),
        ("me/embedding-experiments-with-qwen3", "chat"),
    ],
)
def test_names(name: str, kind: str, tmp_path: Path) -> None:
    assert kinds.of_name(name) == kind
    (tmp_path / name).mkdir(parents=True)
    assert kinds.of_directory(tmp_path / name) == kind
    snapshot = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    assert kinds.of_directory(snapshot) == kind


def test_files_say_more_than_the_name(tmp_path: Path) -> None:
    assert kinds.of_directory(tmp_path) == "chat"
    card = tmp_path / "README.md"
    for field in ("base_model: Qwen/Qwen3-Reranker-4B", "base_model:\n- Qwen/Qwen3-Reranker-4B"):
        card.write_text(f"---\nlicense: x\n{field}\n---\ntext")
        assert kinds.of_directory(tmp_path) == "reranker"
    card.write_text("---\nlicense: x\n---\nbase_model: Qwen/Qwen3-Reranker-4B")
    assert kinds.of_directory(tmp_path) == "chat"
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForSequenceClassification"]}')
    assert kinds.of_directory(tmp_path) == "reranker"
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3Model"]}')
    assert kinds.of_directory(tmp_path) == "embedder"
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForSequenceClassification"]}')
    for damaged in ("{", "[1, null]", '{"a": 1}', '[{"type": 3}]'):
        (tmp_path / "modules.json").write_text(damaged)
        assert kinds.of_directory(tmp_path) == "reranker"
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling"}]')
    assert kinds.of_directory(tmp_path) == "embedder"
    (tmp_path / "config.json").write_text("{")
    assert kinds.of_directory(tmp_path) == "embedder"


@pytest.mark.parametrize("release", releases.RETRIEVAL, ids=lambda release: release.alias)
def test_aliases(release: releases.Release) -> None:
    size = release.alias.partition("-")[2]
    long = {"embedder": "embedding", "reranker": "reranker"}[release.kind]
    for spelling in (release.alias, release.alias.upper(), f"qwen3-{long}-{size}"):
        assert resolve.parse(spelling).repo == f"Qwen/{release.name}"
    assert kinds.of_name(release.repo) == release.kind
    assert releases.of_repo(release.repo) is release
    config = Qwen3Config.from_dict(release.config())
    assert config.quantization is None and config.vocab_size < 151_936
    assert config.tie_word_embeddings == (release.alias != "rerank-8b")


def test_refusals_name_what_to_do() -> None:
    with pytest.raises(OptionError, match="qwen3-mlx embed"):
        kinds.check_writes_text("embedder", "embed-0.6b")
    kinds.check_writes_text("reranker", "rerank-0.6b")
    kinds.check_judges("chat", "8b")


def test_json_is_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps([{"type": "x.Pooling"}]).encode()
    )
    assert kinds.of_directory(tmp_path) == "embedder"
