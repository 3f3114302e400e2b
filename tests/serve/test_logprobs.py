"""Log probabilities in chat completions: those of the answer's tokens, streamed or not."""

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
