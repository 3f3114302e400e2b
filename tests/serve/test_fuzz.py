"""Bodies that nobody would write: each gets an answer or a 4xx in its dialect, never a 500."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.serve.asking import PARAMETERS
from tests.serve.server import Server, events, serving

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "x"}'}}
FUNCTION = {"name": "f", "description": "d", "parameters": PARAMETERS}
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "ab"},
            {"role": "user", "content": [{"type": "text", "text": "cd"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "ef"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "auto",
        "stream_options": {"include_usage": True},
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "seed": 7,
        "stop": ["zz"],
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"5": 1},
        "reasoning_effort": "low",
        "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "model": "m",
        "system": [{"type": "text", "text": "ab", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "cd"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": "x"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "ef"}],
            },
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "auto"},
        "max_tokens": 3,
        "stop_sequences": ["zz"],
        "thinking": {"type": "enabled", "budget_tokens": 0},
        "context_management": {"edits": []},
    },
    "/v1/responses": {
        "model": "m",
        "instructions": "ab",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "cd"}]},
            {"type": "reasoning", "summary": [], "encrypted_content": "aG0="},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "ef"},
        ],
        "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}],
        "max_output_tokens": 3,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "store": False,
    },
    "/v1/completions": {"prompt": "ab", "max_tokens": 3, "stop": "zz", "seed": 1, "echo": False},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "ab"}]},
    "/tokenize": {"messages": [{"role": "user", "content": "ab"}], "tools": []},
    "/v1/responses/input_tokens": {"input": "ab", "instructions": "cd"},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/v1/embeddings": {"input": ["ab"], "dimensions": 4},
    "/v1/rerank": {"query": "ab", "documents": ["cd"], "top_n": 1},
    "/v1/interrupt": {"id": "x", "kind": "stop"},
}
ROUNDS = 100
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 3.5, 2**31, 2**63, -(2**63), 10**300, 1e300, -0.0),
    *("", " ", "x", "\x00", "\ud800", "🙂" * 50, "<|im_end|>\n<|im_start|>system", "</think>"),
    *([], [[]], {}, [None], {"": None}, {"type": "text"}, {"type": "image"}, [1, "a", {}]),
    *({"role": "user"}, {"role": None, "content": 1}, "auto", "required", {"type": "any"}),
]


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    with serving(Qwen3(tiny.runtime()), parallel=4) as server:
        yield server


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside of `value`."""
    if at:
        yield at
    found = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else found:
        yield from places(inner, (*at, key))


def changed(body: Any, draw: random.Random) -> Any:
    """`body`, with a few of its values replaced, removed, doubled or buried."""
    body = copy.deepcopy(body)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at = draw.choice(list(places(body)) or [()])
        if not at:
            return copy.deepcopy(draw.choice(ODD))
        inside = body
        for key in at[:-1]:
            inside = inside[key]
        act = draw.randrange(5)
        if act == 0:
            del inside[at[-1]]
        elif act == 1 and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[at[-1]]))
        elif act == 2:
            inside[at[-1]] = [inside[at[-1]]]
        else:
            inside[at[-1]] = copy.deepcopy(draw.choice(ODD))
    return body


def check(server: Server, path: str, sent: bytes) -> int:
    got = server.post(path, sent)
    assert got.status in (200, 400, 404, 413), (got.status, sent, got.body)
    if got.status != 200:
        error = got.json["error"]
        assert error["message"] and (path.startswith("/v1/messages")) == ("type" in got.json)
    elif got.headers["content-type"].startswith("text/event-stream"):
        last = list(events(got.body.decode()))[-1]
        done = ("message_stop", "response.completed", "response.incomplete")
        assert last.data == "[DONE]" or last.name in done, (sent, last)
    else:
        got.json  # noqa: B018  (it is JSON)
    return got.status


@pytest.mark.parametrize("path", list(VALID))
def test_changed_bodies(small: Server, path: str) -> None:
    draw = random.Random(path)
    if path not in ("/v1/embeddings", "/v1/rerank", "/v1/interrupt"):
        assert check(small, path, json.dumps(VALID[path]).encode()) == 200
    statuses = set()
    for n in range(ROUNDS):
        body = changed(VALID[path], draw)
        if isinstance(body, dict) and n % 2 and "count" not in path:
            body["stream"] = True
        if isinstance(body, dict):  # it would say much, and slowly
            limit = "max_output_tokens" if "responses" in path else "max_tokens"
            if type(body.get(limit)) is not int or body[limit] > 9:
                body[limit] = 3
        statuses.add(check(small, path, json.dumps(body).encode()))
    assert 400 in statuses or path == "/v1/interrupt"
    assert small.scheduler.counts.faults == 0


@pytest.mark.parametrize("path", list(VALID))
def test_bytes_that_are_no_json(small: Server, path: str) -> None:
    draw = random.Random(path)
    good = json.dumps(VALID[path]).encode()
    cases = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"\x00" * 9,
        b"1e999",
        b'{"a":NaN}',
        b'"\\ud8"',
    ]
    cases += [b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b'{"messages":1e400}']
    for _ in range(40):
        broken = bytearray(good)
        for _ in range(draw.randrange(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        cases.append(bytes(broken))
    for sent in cases:
        check(small, path, sent)


def test_half_a_pair_of_surrogates_breaks_nothing(small: Server) -> None:
    half = "ab\ud83d"
    for path, body in VALID.items():
        text = json.dumps(body).replace('"ab"', json.dumps(half)).replace('"b"', json.dumps(half))
        check(small, path, text.encode())


def test_a_conversation_with_itself(small: Server) -> None:
    """What comes out can be put in again, in every dialect."""
    for path, text in (("/v1/chat/completions", "messages"), ("/v1/messages", "messages")):
        body = copy.deepcopy(VALID[path])
        for _ in range(3):
            got = small.ok(path, body)
            if path == "/v1/messages":
                said = {"role": "assistant", "content": got["content"] or "x"}
            else:
                said = got["choices"][0]["message"]
            body[text] += [said, {"role": "user", "content": "gh"}]
    body = copy.deepcopy(VALID["/v1/responses"])
    for _ in range(3):
        got = small.ok("/v1/responses", body)
        body["input"] += [*got["output"], {"role": "user", "content": "gh"}]


@pytest.mark.parametrize("content", [3, True, "x", {"text": "x"}])
def test_a_thought_that_is_no_list(small: Server, content: Any) -> None:
    item = {"type": "reasoning", "content": content, "summary": content}
    body = VALID["/v1/responses"] | {"input": [item, {"role": "user", "content": "ab"}]}
    assert check(small, "/v1/responses", json.dumps(body).encode()) == 400
