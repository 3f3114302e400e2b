"""What the load on a server is made of, and what it calls growth."""

from __future__ import annotations

import json
import random

from benchmarks.serve_load import GROWTH, has_grown, request, spoiled
from qwen3_mlx.serve import chat_completions, completions, messages, responses

READERS = {
    "/v1/chat/completions": chat_completions.read,
    "/v1/completions": completions.read,
    "/v1/messages": messages.read,
    "/v1/responses": lambda body: responses.read(body, responses.Kept()),
}


def test_honest_requests_hold_what_their_dialects_know() -> None:
    draw, paths = random.Random(3), set()
    for _ in range(300):
        path, body = request(draw)
        assert not READERS[path](body).ignored
        paths.add(path)
    assert paths == READERS.keys()


def test_a_spoiled_body_differs_and_the_request_stays_whole() -> None:
    draw, same = random.Random(4), 0
    for _ in range(300):
        _, body = request(draw)
        before = json.dumps(body)
        same += spoiled(body, draw) == before.encode()
        assert json.dumps(body) == before
    assert same < 10  # a hostile value may be the one that was there


def test_what_counts_as_growth() -> None:
    first: dict[str, int | None] = {"bytes": 10, "threads": 11, "files": 7}
    assert has_grown([first, first | {"bytes": 10 + GROWTH, "files": 9}]) == []
    assert has_grown([first, first | {"threads": 12}]) == ["threads"]
    assert has_grown([first, {"bytes": 11 + GROWTH, "threads": None, "files": 10}]) == [
        *("bytes", "files"),
    ]
