"""Embeddings and reranking over HTTP: the numbers that the models give, and what is refused."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qwen3_mlx.model import load
from tests.checkpoints import GOLDEN
from tests.serve.server import Server, serving, wait_for

RETRIEVAL = GOLDEN.parent / "retrieval"
END = "<|endoftext|>"


def golden(name: str) -> dict[str, Any]:
    return json.loads((RETRIEVAL / name / "expected.json").read_text())


@pytest.fixture(scope="module")
def embedder() -> Iterator[Server]:
    with serving(load(RETRIEVAL / "embedder")) as server:
        yield server


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    named = tmp_path_factory.mktemp("models") / "Qwen3-Reranker-tiny"
    with serving(load(shutil.copytree(RETRIEVAL / "reranker", named))) as server:
        yield server


def vectors(answer: Any) -> np.ndarray:
    return np.array([one["embedding"] for one in answer["data"]])


def test_vectors_as_transformers_has_them(embedder: Server) -> None:
    want = golden("embedder")
    got = embedder.ok("/v1/embeddings", {"model": "x", "input": want["texts"]})
    assert [one["index"] for one in got["data"]] == list(range(5)) and got["object"] == "list"
    assert np.abs(vectors(got) - np.array(want["vectors"])).max() < 1e-5
    tokens = sum(
        len(embedder.ok("/tokenize", {"prompt": text})["tokens"]) + 1 for text in want["texts"]
    )
    assert got["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"input": want["texts"], "instruct": want["task"]}
    assert (
        np.abs(vectors(embedder.ok("/v1/embeddings", body)) - np.array(want["queries"])).max()
        < 1e-5
    )


def test_one_text_ids_dimensions_and_base64(embedder: Server) -> None:
    text = golden("embedder")["texts"][0]
    one = vectors(embedder.ok("/v1/embeddings", {"input": text}))
    ids = embedder.ok("/tokenize", {"prompt": text})["tokens"]
    for given in (ids, [ids], ids + embedder.ok("/tokenize", {"prompt": END})["tokens"]):
        assert np.array_equal(vectors(embedder.ok("/v1/embeddings", {"input": given})), one)
    short = vectors(embedder.ok("/v1/embeddings", {"input": text, "dimensions": 8}))
    first = one[:, :8] / np.linalg.norm(one[:, :8])
    assert short.shape == (1, 8) and np.abs(short - first).max() < 1e-6
    spelled = embedder.ok("/v1/embeddings", {"input": text, "encoding_format": "base64"})
    raw = np.frombuffer(base64.b64decode(spelled["data"][0]["embedding"]), "<f4")
    assert np.abs(raw - one[0]).max() < 1e-7


def test_many_texts_between_the_rounds(embedder: Server) -> None:
    texts = [f"text number {n} " * (n % 7 + 1) for n in range(300)]
    got = vectors(embedder.ok("/v1/embeddings", {"input": texts}))
    again = vectors(embedder.ok("/v1/embeddings", {"input": texts[77]}))
    assert got.shape[0] == 300 and np.abs(got[77] - again[0]).max() < 1e-5
    assert embedder.get("/health").status == 200


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_scores_as_transformers_has_them(reranker: Server, path: str) -> None:
    want = golden("reranker")
    body = {"query": want["query"], "documents": want["documents"]}
    got = reranker.ok(path, body | {"return_documents": True})
    scores = {one["index"]: one["relevance_score"] for one in got["results"]}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    expected = np.array(want["scores"])
    assert np.abs(np.array([scores[n] for n in range(len(expected))]) - expected).max() < 1e-5
    assert all(one["document"]["text"] == want["documents"][one["index"]] for one in got["results"])
    objects = [{"text": text} for text in want["documents"]]
    best = reranker.ok(path, body | {"documents": objects, "top_n": 1})["results"]
    assert [one["index"] for one in best] == [got["results"][0]["index"]]
    assert "document" not in best[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "input is missing"),
        ({"input": []}, "input"),
        ({"input": ["a", 3]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [-1]}, "ids below"),
        ({"input": [10**12]}, "ids below"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 10**6}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "word " * 100_000}, "too long"),
    ],
)
def test_what_is_no_request_for_vectors(embedder: Server, body: Any, words: str) -> None:
    got = embedder.post("/v1/embeddings", body)
    assert got.status == 400 and words in got.json["error"]["message"], got.body
    assert embedder.post("/v1/embeddings", {"input": "a"}).status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"documents": ["a"]}, "query is missing"),
        ({"query": "q"}, "documents is missing"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": [3]}, "documents[0]"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_what_is_no_request_for_scores(reranker: Server, body: Any, words: str) -> None:
    got = reranker.post("/v1/rerank", body)
    assert got.status == 400 and words in got.json["error"]["message"], got.body


def test_a_model_does_what_it_was_made_for(
    embedder: Server, reranker: Server, server: Server
) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    got = embedder.post("/v1/chat/completions", chat)
    assert got.status == 400 and "vectors" in got.json["error"]["message"]
    for other in (server, reranker):
        got = other.post("/v1/embeddings", {"input": "hi"})
        assert got.status == 400 and "embed-0.6b" in got.json["error"]["message"]
    for other in (server, embedder):
        got = other.post("/v1/rerank", {"query": "q", "documents": ["a"]})
        assert got.status == 400 and "rerank-0.6b" in got.json["error"]["message"]


def test_a_client_that_goes_stops_its_batches(embedder: Server) -> None:
    gone = embedder.begin("/v1/embeddings", {"input": ["word " * 100] * 3000})
    wait_for(lambda: embedder.scheduler.busy)
    gone.close()
    began = time.monotonic()
    wait_for(lambda: not embedder.scheduler.busy)
    assert time.monotonic() - began < 20, "it does not compute what nobody waits for"
    assert embedder.ok("/v1/embeddings", {"input": "a"})["usage"]["total_tokens"] == 2


def test_an_error_in_a_batch_is_one_500(embedder: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("the text of somebody")

    with monkeypatch.context() as patch:
        patch.setattr("qwen3_mlx.retrieval.batches._states", broken)
        got = embedder.post("/v1/embeddings", {"input": "a"})
    assert got.status == 500 and b"somebody" not in got.body
    assert embedder.post("/v1/embeddings", {"input": "a"}).status == 200


@pytest.mark.parametrize("prompt", ["Once", [1, 2]])
def test_an_embedder_completes_no_text(embedder: Server, prompt: Any) -> None:
    got = embedder.post("/v1/completions", {"prompt": prompt})
    assert got.status == 400 and "vectors and writes none" in got.json["error"]["message"]


def test_a_text_that_is_too_long_is_named(embedder: Server, reranker: Server) -> None:
    long = "word " * 40_000
    error = embedder.post("/v1/embeddings", {"input": ["a", long]}).json["error"]
    assert (error["param"], error["code"]) == ("input[1]", "context_length_exceeded")
    error = reranker.post("/v1/rerank", {"query": "q", "documents": ["a", long]}).json["error"]
    assert error["param"] == "documents[1]"
