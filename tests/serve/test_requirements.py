"""docs/serve-tests.md: each requirement has its tests; those that no other file holds are here."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.engine import prefixes
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import chat_completions, messages, responses
from qwen3_mlx.serve.ask import ready
from qwen3_mlx.text import ChatTemplate
from tests import tiny
from tests.scripted import say
from tests.serve.asking import PATHS, body
from tests.serve.server import Server

ROOT = Path(__file__).parents[2]
CODER = ROOT / "tests" / "golden" / "coder_template.jinja"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_requirement_has_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "serve-tests.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| .*$", text, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 35))
    for row in re.findall(r"^\| \d+ \| .*$", text, re.MULTILINE):
        assert TEST.search(row), row
    for file, name in TEST.findall(text):
        assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), name


@pytest.mark.parametrize("cut", ['{"city": "Z', "not json", "[1]", "null", '"x"', "[" * 5_000])
@pytest.mark.parametrize("coder", [False, True])
def test_a_replayed_call_that_was_cut_ends_no_conversation(cut: str, coder: bool) -> None:
    runtime = tiny.runtime(max_position_embeddings=20_000)
    if coder:
        template = ChatTemplate(CODER.read_text("utf-8"))
        runtime = replace(runtime, template=template, family="coder")
    function = {"name": "f", "arguments": cut}
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "id": "c", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "that was no JSON"},
    ]
    items = [talk[0], {"type": "function_call", "call_id": "c"} | function,
             {"type": "function_call_output", "call_id": "c", "output": "no JSON"}]  # fmt: skip
    asks = (
        chat_completions.read({"messages": talk}),
        responses.read({"input": items}, responses.Kept()),
    )
    for ask in asks:
        assert cut in runtime.tokenizer.decode(ready(runtime, ask).prompt)


def test_results_are_read_as_those_of_their_calls_in_every_dialect() -> None:
    """An agent that runs calls at once sends their results as they come."""
    runtime, user = tiny.runtime(), {"role": "user", "content": "hi"}
    made = [{"id": id, "type": "function", "function": {"name": id}} for id in "ab"]
    results = [{"role": "tool", "tool_call_id": id, "content": f"of {id}"} for id in "ab"]
    used = [{"type": "tool_use", "id": id, "name": id, "input": {}} for id in "ab"]
    blocks = [{"type": "tool_result", "tool_use_id": id, "content": f"of {id}"} for id in "ab"]
    items = [{"type": "function_call", "call_id": id, "name": id} for id in "ab"]
    outputs = [{"type": "function_call_output", "call_id": i, "output": f"of {i}"} for i in "ab"]
    prompts = set()
    for way in (1, -1):
        called = {"role": "assistant", "tool_calls": made}
        chat = chat_completions.read({"messages": [user, called, *results[::way]]})
        said = [user, {"role": "assistant", "content": used}]
        theirs = messages.read(
            {"messages": [*said, {"role": "user", "content": blocks[::way]}], "max_tokens": 9}
        )
        newer = responses.read({"input": [user, *items, *outputs[::way]]}, responses.Kept())
        for one in (chat, theirs, newer):
            prompts.add(runtime.tokenizer.decode(ready(runtime, one).prompt))
    found = {prompt[prompt.index("of ") :].partition("<|im_end|>")[0] for prompt in prompts}
    assert len(found) == 1, found


def test_characters_of_several_tokens_arrive_whole_in_each_stream(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a decoder of its own: what one has begun, no other ends."""
    said = "🙂 日本語 👩‍👩‍👧 ﷽ 𝄞"
    say(monkeypatch, demo, said)
    found: dict[int, list[str]] = {}

    def ask(number: int) -> None:
        sent = body("chat", f"number {number}", enable_thinking=False)
        chunks = [one.data for one in server.stream(PATHS["chat"], sent) if one.data != "[DONE]"]
        deltas = [one["choices"][0]["delta"].get("content") for one in chunks]
        found[number] = [piece for piece in deltas if piece]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(demo.tokenizer.encode(said)) > len(said)
    for pieces in found.values():
        assert "".join(pieces) == said and not any("\ufffd" in piece for piece in pieces)
    assert len(found) == 4


def test_a_conversation_that_goes_on_copies_no_cache(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, demo, "It is four.")
    copies: list[int] = []
    real = prefixes.copied

    def counted(source: Any, count: int, target: Any) -> Any:
        copies.append(count)
        return real(source, count, target)

    monkeypatch.setattr(prefixes, "copied", counted)
    talk = [{"role": "user", "content": "What is 2 + 2, if anybody still knows?"}]
    for turn in range(3):
        sent = {"messages": talk, "max_tokens": 60, "enable_thinking": False}
        got = server.ok(PATHS["chat"], sent)
        assert not turn or got["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
        talk = [*talk, got["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    assert copies == []
