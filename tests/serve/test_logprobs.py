"""Log probabilities in chat completions, of the answer's tokens, and in completions, of all."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from tests.scripted import say
from tests.serve.asking import CALL_SCRIPT, PATHS, body
from tests.serve.server import Server

THOUGHT = "<think>\nHm, 🙂 so.\n</think>\n\n"
SAID: dict[str, tuple[str, dict[str, Any]]] = {
    "an answer": ("The answer is 4 — 四 🙂.", {}),
    "a thought": (f"{THOUGHT}The answer.", {}),
    "line breaks": (f"{THOUGHT}\n\nOne.\n\nTwo.\n\n", {}),
    "a stop text": ("abc STOP def", {"stop": ["STOP"]}),
    "a stop text inside a token": ("What is it? Yes.", {"stop": ["s it"]}),
    "what a stop text could begin with": ("abc STO, ST", {"stop": ["STOP"]}),
    "calls": (CALL_SCRIPT, {}),
    "text behind calls": (CALL_SCRIPT + "\nIt is that.\n\nYes.", {}),
    "calls alone": (CALL_SCRIPT.replace("One moment.", ""), {}),
    "no call": ("One.\n<tool_call>\n{no call}\n</tool_call>\nTwo.", {}),
    "a cut": ("one two three four five six", {"max_tokens": 5}),
}


def joined(found: list[dict[str, Any]]) -> str:
    for one in found:
        assert one["logprob"] <= 0 and len(one["top_logprobs"]) == 1
        assert bytes(one["bytes"]).decode("utf-8", "replace") == one["token"]
    return b"".join(bytes(one["bytes"]) for one in found).decode()


@pytest.mark.parametrize("name", SAID)
def test_the_tokens_joined_are_the_answer(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script, more = SAID[name]
    say(monkeypatch, demo, script)
    sent = body("chat", tools="tool_call" in script, max_tokens=900)
    found = check(server, sent | {"enable_thinking": "<think>" in script, **more})
    assert found or name == "calls alone"


@pytest.mark.parametrize("budget", [0, 20, 400])
def test_a_thoughts_tokens_are_none_of_the_answers(server: Server, budget: int) -> None:
    sent = body("chat", "What is 17 * 23?", temperature=0, thinking_budget=budget)
    assert check(server, sent)


def check(server: Server, sent: dict[str, Any]) -> bool:
    """Ask for an answer, whole and streamed; whether it has tokens, which must be its text."""
    sent = sent | {"logprobs": True, "top_logprobs": 1}
    one = server.ok(PATHS["chat"], sent)["choices"][0]
    found = one["logprobs"]["content"]
    assert joined(found) == (one["message"]["content"] or "")
    streamed, text = [], ""
    for event in server.stream(PATHS["chat"], sent):
        for choice in event.data["choices"] if event.data and event.data != "[DONE]" else ():
            text += choice["delta"].get("content") or ""
            if choice["logprobs"]:
                streamed += choice["logprobs"]["content"]
    assert text == (one["message"]["content"] or "")
    assert [each["token"] for each in streamed] == [each["token"] for each in found]
    return bool(found)


RAW: dict[str, tuple[str, dict[str, Any]]] = {
    "an answer": ("The answer is 4 — 四 🙂.", {}),
    "a stop text": ("abc STOP def", {"stop": ["STOP"]}),
    "a stop text inside a token": ("What is it? Yes.", {"stop": ["s it"]}),
    "a cut": ("one two 🙂 four five six", {"max_tokens": 5}),
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("likeliest", [0, 3])
def test_a_completions_tokens_joined_are_its_text(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, name: str, likeliest: int
) -> None:
    """They were refused, and with 0, which asks for those drawn, there were none."""
    script, more = RAW[name]
    say(monkeypatch, demo, script)
    sent = {"prompt": "Q", "max_tokens": 90, "logprobs": likeliest} | more
    whole = server.ok("/v1/completions", sent)["choices"][0]
    found, text = whole["logprobs"], whole["text"]
    raw = [spelled(token) for token in found["tokens"]]
    assert b"".join(raw).decode("utf-8", "ignore") == text.removesuffix("\ufffd") and len(raw) > 1
    for n, (offset, top) in enumerate(
        zip(found["text_offset"], found["top_logprobs"], strict=True)
    ):
        assert offset == len(b"".join(raw[:n]).decode("utf-8", "ignore"))
        assert max(likeliest, 1) <= len(top) <= likeliest + 1
        assert found["token_logprobs"][n] <= 0 and len(raw) == len(found["token_logprobs"])
    pieces = [
        choice["logprobs"]
        for event in server.stream("/v1/completions", sent)
        if event.data and event.data != "[DONE]"
        for choice in event.data["choices"]
    ]
    for part, values in found.items():
        assert [value for piece in pieces for value in piece[part]] == values, part


def spelled(token: str) -> bytes:
    """A token's bytes, as OpenAI's completions write it."""
    if not token.startswith("bytes:"):
        return token.encode()
    return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))


def test_completions_without_log_probabilities_have_none(server: Server) -> None:
    got = server.ok("/v1/completions", {"prompt": "Q", "max_tokens": 2, "logprobs": None})
    assert got["choices"][0]["logprobs"] is None
    for wrong in (True, 21, -1, "1"):
        asked = {"prompt": "Q", "max_tokens": 2, "logprobs": wrong}
        error = server.post("/v1/completions", asked).json["error"]
        assert error["param"] == "logprobs", error
