"""Counts of tokens: those of the turn that the same fields ask for, also beyond the context."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from tests.serve.asking import PATHS, body
from tests.serve.server import Server, serving

COUNT = "/v1/messages/count_tokens"


@pytest.mark.parametrize("most", [100, 600])
def test_a_count_with_max_tokens_is_the_turn_s(server: Server, most: int) -> None:
    """Below 512 there is no thinking, and the empty thought is part of the prompt."""
    sent = body("messages", max_tokens=most)
    counted = server.ok(COUNT, sent)["input_tokens"]
    assert counted == server.ok(PATHS["messages"], sent)["usage"]["input_tokens"]
    without = {name: value for name, value in sent.items() if name != "max_tokens"}
    assert (server.ok(COUNT, without)["input_tokens"] == counted) == (most >= 512)


def test_a_prompt_beyond_the_context_is_counted(server: Server) -> None:
    sent = body("messages", "word " * 40_000)
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1_024}}
    for more in ({}, thinking):
        assert server.ok(COUNT, sent | more)["input_tokens"] > 40_000
    messages = {"messages": sent["messages"]}
    assert server.ok("/tokenize", messages)["count"] > 40_000
    assert server.post(PATHS["messages"], sent).status == 400


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"enable_thinking": False},
        {"max_tokens": 9},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"continue_final_message": True},
    ],
    ids=str,
)
def test_tokenize_heeds_what_changes_a_prompt(server: Server, more: dict[str, Any]) -> None:
    sent = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | more
    if "continue_final_message" in more:
        sent["messages"] = [*sent["messages"], {"role": "assistant", "content": "So"}]
    plain = server.ok("/tokenize", {"messages": sent["messages"][:1]})["count"]
    found = server.ok("/tokenize", sent)["count"]
    limited = {"max_tokens": 600} | sent
    used = server.ok(PATHS["chat"], limited)["usage"]["prompt_tokens"]
    assert found == used != plain


def test_pieces_and_both_names_of_a_text(server: Server, demo: Qwen3) -> None:
    text = "Zürich 🙂 日"
    plain = server.ok("/tokenize", {"content": text})["tokens"]
    pieces = server.ok("/tokenize", {"content": text, "with_pieces": True})["tokens"]
    assert [one["id"] for one in pieces] == plain
    raw = [one["piece"] for one in pieces]
    assert b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in raw) == text.encode()
    back = server.ok("/detokenize", {"tokens": plain})
    assert back["content"] == back["prompt"] == text
    got = server.post("/tokenize", {"content": text, "return_token_strs": True})
    assert got.headers["x-qwen3-mlx-ignored"] == "return_token_strs"


def test_a_strict_server_counts_for_its_own_name_only(demo: Qwen3) -> None:
    bodies = {
        COUNT: body("messages"),
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [1]},
    }
    with serving(demo, strict=True) as strict:
        for path, sent in bodies.items():
            assert strict.post(path, sent | {"model": "other"}).status == 404
            assert strict.post(path, sent | {"model": "demo"}).status == 200


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ({"content": "a", "messages": [{"role": "user", "content": "a"}]}, "content"),
        ({"prompt": "a", "content": "b"}, "content"),
        ({"prompt": 5, "messages": [{"role": "user", "content": "a"}]}, "prompt"),
    ],
    ids=str,
)
def test_a_text_beside_another_is_refused(server: Server, sent: dict[str, Any], field: str) -> None:
    """One of the two was counted, and nothing said which."""
    got = server.post("/tokenize", sent)
    assert got.status == 400 and got.json["error"]["param"] == field, got.body


def test_special_tokens_may_be_read_as_letters(server: Server, demo: Qwen3) -> None:
    text = "<|im_end|>"
    known = {"add_special": True, "add_special_tokens": True, "parse_special": True}
    got = server.post("/tokenize", {"content": text} | known)
    assert "x-qwen3-mlx-ignored" not in got.headers and got.json["count"] == 1
    found = server.ok("/tokenize", {"content": text, "parse_special": False})
    assert found["tokens"] == demo.tokenizer.encode_letters(text) and found["count"] > 1


def test_a_responses_prompt_is_counted_by_openais_path(server: Server) -> None:
    sent = body("responses", tools=True, instructions="Be brief.", max_output_tokens=600)
    found = server.ok("/v1/responses/input_tokens", sent)
    used = server.ok(PATHS["responses"], sent)
    assert found == {"object": "response.input_tokens", **_input(used)}
    after = {"previous_response_id": used["id"], "input": "And?"}
    assert server.ok("/v1/responses/input_tokens", after)["input_tokens"] > 10


def _input(answer: dict[str, Any]) -> dict[str, int]:
    return {"input_tokens": answer["usage"]["input_tokens"]}
