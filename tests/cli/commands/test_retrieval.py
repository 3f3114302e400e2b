"""``qwen3-mlx embed`` and ``rerank``: JSON lines in and out, errors in their place."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx import load
from qwen3_mlx.cli import json_lines
from qwen3_mlx.cli.app import app
from tests.retrieval.test_retrieval import RETRIEVAL, golden


def run(*arguments: str | Path, lines: list[Any] | bytes = b"") -> tuple[Result, list[Any]]:
    data = (
        lines
        if isinstance(lines, bytes)
        else b"".join(json.dumps(v).encode() + b"\n" for v in lines)
    )
    done = CliRunner().invoke(app, list(map(str, arguments)), input=data)
    return done, [json.loads(line) for line in done.stdout.splitlines()]


EMBEDDER, RERANKER = RETRIEVAL / "embedder", RETRIEVAL / "reranker"
PAGE = (Path(__file__).parents[3] / "docs" / "embeddings.md").read_text("utf-8")
DOCUMENTED = re.findall(r"^qwen3-mlx ((?:embed|rerank) .*)$", PAGE, re.MULTILINE)


def test_embed() -> None:
    want = golden("embedder")
    done, found = run("embed", EMBEDDER, lines=want["texts"])
    assert done.exit_code == 0, done.stderr
    assert [line["index"] for line in found] == list(range(5))
    vectors = np.array([line["embedding"] for line in found])
    assert np.abs(vectors - np.array(want["vectors"])).max() < 1e-5


def test_embed_options_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('\ufeff{"body": "x"}\n\n{"body": "y", "text": 1}\n', "utf-8")
    options = ("--field", "body", "--dimensions", "4", "--instruct", "Find it")
    done, found = run("embed", EMBEDDER, file, *options)
    assert done.exit_code == 0, done.stderr
    want = load(EMBEDDER).embed(["x", "y"], dimensions=4, instruct="Find it")
    assert np.allclose([line["embedding"] for line in found], np.array(want), atol=1e-6)


@pytest.mark.parametrize("line", DOCUMENTED)
def test_the_pages_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """With a tiny model in place of the one that would be downloaded."""
    is_embed = line.startswith("embed")
    words, _, piped = line.partition(" > ")[0].partition(" < ")
    lines = '"x"\n' if is_embed else '{"query": "q", "documents": ["d"]}\n'
    for name in re.findall(r"\S+\.jsonl", f"{words} {piped}"):
        (tmp_path / name).write_text(lines)
    small = load(EMBEDDER if is_embed else RERANKER)
    monkeypatch.setattr(json_lines, "load", lambda _name, _kind: small)
    monkeypatch.chdir(tmp_path)
    done, found = run(*shlex.split(words), lines=lines.encode() if piped else b"")
    assert (done.exit_code, len(found)) == (0, 1), done.stderr


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("command", ["embed", "rerank"])
def test_a_lone_file_is_not_taken_for_an_unknown_model(
    tmp_path: Path, command: str, is_there: bool
) -> None:
    file = tmp_path / "e.jsonl"
    if is_there:
        file.write_text('"x"\n')
    done, _ = run(command, file)
    assert done.exit_code == 1
    assert f"a lone argument is the model: got {file}" in done.stderr
    assert f"name the model first: {command}-0.6b {file}" in done.stderr


def test_errors_stand_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "TOGETHER", 2)
    lines = b'"a"\n{"no": 1}\nnot json\n"\\ud800"\n\xff\n7\n"%s"\n"b"\n' % (b"word " * 1000)
    done, found = run("embed", EMBEDDER, lines=lines)
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    assert [line["index"] for line in found] == list(range(8))
    assert ["embedding" in line for line in found] == [True, *[False] * 6, True]
    for line, word in zip(
        found[1:7], ("'text'", "JSON", "surrogate", "JSON", "int", "too long"), strict=True
    ):
        assert word in line["error"]
    done, found = run("embed", EMBEDDER, "--truncate", lines=b'"%s"\n' % (b"word " * 1000))
    assert done.exit_code == 0 and len(found[0]["embedding"]) == 32


def test_rerank_with_a_query_and_without() -> None:
    want = golden("reranker")
    question = {"query": want["query"], "documents": want["documents"]}
    done, found = run("rerank", RERANKER, lines=[question, {"query": "q"}, question])
    assert done.exit_code == 1
    assert [sorted(line) for line in found] == [
        ["index", "scores"],
        ["error", "index"],
        ["index", "scores"],
    ]
    for line in (found[0], found[2]):
        assert np.allclose(line["scores"], want["scores"], atol=1e-5)
    documents = [want["documents"][0], {"text": want["documents"][2]}]
    done, found = run("rerank", RERANKER, "--query", want["query"], lines=documents)
    assert done.exit_code == 0, done.stderr
    scores = [want["scores"][0], want["scores"][2]]
    assert np.allclose([line["score"] for line in found], scores, atol=1e-5)


def test_models_made_for_something_else(tmp_path: Path) -> None:
    done, found = run("embed", RERANKER, lines=["x"])
    assert done.exit_code == 0 and "embedder by its files" in done.stderr and found
    headless = RETRIEVAL / "embedder-headless"
    done, _ = run("rerank", headless, "--query", "q", lines=["x"])
    assert done.exit_code == 1 and "judges none" in done.stderr
    named = tmp_path / "Qwen3-Embedding-tiny"
    named.symlink_to(EMBEDDER)
    for command in (["chat", named, "--plain"], ["generate", named, "hello"], ["chat", "embed-8b"]):
        done, _ = run(*command)
        assert done.exit_code == 1, command
        assert "writes none" in done.stderr and "qwen3-mlx embed" in done.stderr
        assert "downloading" not in done.stderr


def test_info_and_models_say_what_it_is(tmp_path: Path) -> None:
    named = tmp_path / "Qwen3-Reranker-tiny"
    named.symlink_to(RERANKER)
    done, _ = CliRunner().invoke(app, ["info", str(named)]), None
    assert "reranker: judges documents (qwen3-mlx rerank)" in done.stdout
    done, (record,) = run("info", named, "--json")
    assert record["kind"] == "reranker"
    done, (record,) = run("models", named, "--json")
    assert [one["kind"] for one in record["models"]][-1] == "reranker"
    done = CliRunner().invoke(app, ["models", "--all"])
    assert "embed-0.6b" in done.stdout and "embedder; fits" in done.stdout


def test_bad_options() -> None:
    done, _ = run("embed", EMBEDDER, "--dimensions", "99", lines=["x"])
    assert done.exit_code == 1 and "1 to 32" in done.stderr
    done, _ = run("embed", EMBEDDER, "nowhere.jsonl")
    assert done.exit_code == 1 and "nowhere.jsonl" in done.stderr
