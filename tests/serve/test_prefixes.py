"""Conversations over HTTP pay for their new message only, whoever asks between their turns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.serve.asking import PARAMETERS, PATHS, Said, ask
from tests.serve.server import Server, serving, wait_for

TOOLS = [{"name": "read", "description": "Reads.", "input_schema": PARAMETERS}]


@pytest.fixture
def fresh(demo: Qwen3) -> Iterator[Server]:
    with serving(demo) as server:
        yield server


def settle(server: Server) -> None:
    """Wait until idle time has computed what it can."""
    before = -1.0
    while server.scheduler.busy or server.scheduler.last_round != before:
        before = server.scheduler.last_round
        wait_for(lambda: not server.scheduler.busy)
        server.get("/health")
        if not server.scheduler._idle._caches:
            return


def new(said: Said) -> int:
    """Tokens of the prompt that had to be computed."""
    return said.usage[0] - said.usage[1]


def messages(conversation: list[Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 600, "messages": conversation, **more}


def length(server: Server, text: str) -> int:
    """Tokens of a user message, the template's around it included."""
    found = server.ok("/tokenize", {"messages": [{"role": "user", "content": text}]})
    return int(found["count"])


@pytest.mark.parametrize("dialect", ["chat", "messages"])
def test_the_second_turn_computes_its_message_alone(fresh: Server, dialect: str) -> None:
    """Although the thought of the first is not sent back, or is and the template strips it."""
    for keep in (False, True):
        talk: list[Any] = [{"role": "user", "content": f"What is 12 + {7 + keep}?"}]
        first = ask(fresh, dialect, messages(talk), stream=True)
        assert first.thinking and first.reason in ("stop", "end_turn")
        settle(fresh)
        answer: Any = {"role": "assistant", "content": first.answer}
        if keep and dialect == "chat":
            answer["reasoning_content"] = first.thinking
        elif keep:
            thought = {"type": "thinking", "thinking": first.thinking, "signature": "s"}
            answer["content"] = [thought, {"type": "text", "text": first.answer}]
        talk += [answer, {"role": "user", "content": "And 8 + 5?"}]
        second = ask(fresh, dialect, messages(talk), stream=False)
        assert new(second) <= length(fresh, "And 8 + 5?") + 1


def test_conversations_and_side_requests_between_each_other(fresh: Server) -> None:
    """Four at once, and each turn a request for a title with another prompt, as opencode sends."""
    talks: list[list[Any]] = [
        [{"role": "user", "content": f"Hello, I am number {n}. Sort {n}, 9 and 4, please."}]
        for n in range(4)
    ]
    for turn in range(3):
        for n, talk in enumerate(talks):
            title = [{"role": "system", "content": "Write a title."}, talk[0]]
            ask(fresh, "chat", messages(title, max_tokens=5), stream=False)
            said = ask(fresh, "chat", messages(talk, enable_thinking=False), stream=True)
            if turn:
                assert new(said) <= length(fresh, talk[-1]["content"]) + 8, (turn, n)
            talk.append({"role": "assistant", "content": said.answer})
            talk.append({"role": "user", "content": f"And {turn} + {n}?"})
            settle(fresh)


def claude(turn: int, talk: list[Any]) -> dict[str, Any]:
    """A request as Claude Code makes it, with what it changes in every one."""
    digits = random.Random(turn).randrange(10**9)
    system = [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={digits};"},
        {"type": "text", "text": "You write code. " * 40},
        {"type": "text", "text": f"<total_tokens>{digits} left</total_tokens>\nBe brief."},
    ]
    return messages(
        talk,
        system=system,
        tools=TOOLS,
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        context_management={"edits": []},
        max_tokens=600,
    )


def test_lines_that_change_in_every_request_do_not_reach_the_prefix(fresh: Server) -> None:
    talk: list[Any] = [{"role": "user", "content": "Say hello."}]
    first = ask(fresh, "messages", claude(1, talk), stream=True)
    settle(fresh)
    talk += [{"role": "assistant", "content": first.answer or "Hello."}]
    talk += [{"role": "user", "content": "Again."}]
    second = ask(fresh, "messages", claude(2, talk), stream=True)
    said = length(fresh, first.answer or "Hello.") + length(fresh, "Again.")
    assert second.usage[0] > 300 and new(second) <= said + 8
    count = {k: v for k, v in claude(3, talk).items() if k != "max_tokens"}
    assert fresh.ok("/v1/messages/count_tokens", count)["input_tokens"] == second.usage[0]


def test_a_line_of_the_users_own_is_kept(server: Server) -> None:
    line = "x-anthropic-billing-header: mine"
    with_it, without = (
        server.ok("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": text}]})
        for text in (f"What does {line} mean?", "What does  mean?")
    )
    assert with_it["input_tokens"] > without["input_tokens"]


def test_the_limit_holds_after_many_conversations() -> None:
    model = Qwen3(tiny.runtime())
    limit = 300_000
    with serving(model, prefix_gb=limit / 1e9) as server:
        path = PATHS["chat"]
        for n in range(60):
            long = f"{n} " * (20 + 7 * (n % 5))
            server.ok(path, {"messages": [{"role": "user", "content": long}], "max_tokens": 5})
            assert server.scheduler.prefixes.nbytes <= limit
        counts = server.scheduler.prefixes.counts()
        assert counts.evictions > 0 and counts.entries > 0
        metrics = server.get("/metrics").body.decode()
        assert f"qwen3_mlx_prefix_bytes_limit {limit}" in metrics


def test_previous_response_goes_on_and_computes_the_new_alone(fresh: Server) -> None:
    path, first_input = PATHS["responses"], "What is 12 + 7?"
    first = fresh.ok(path, {"input": first_input, "instructions": "Be brief."})
    settle(fresh)
    more = {"input": "And 8 + 5?", "instructions": "Be brief."}
    second = fresh.ok(path, more | {"previous_response_id": first["id"]})
    usage = second["usage"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    assert usage["input_tokens"] - cached <= length(fresh, "And 8 + 5?") + 1
    assert fresh.get(f"{path}/{second['id']}").json["output"] == second["output"]
    assert fresh("DELETE", f"{path}/{first['id']}").json["deleted"] is True
    for gone in (first["id"], "resp_none"):
        assert fresh.get(f"{path}/{gone}").status == 404
        got = fresh.post(path, more | {"previous_response_id": gone})
        assert got.status == 404 and got.json["error"]["param"] == "previous_response_id"
    kept = fresh.ok(path, more | {"store": False})
    assert fresh.get(f"{path}/{kept['id']}").status == 404


def test_thoughts_come_back_with_a_stateless_client(fresh: Server) -> None:
    """As Codex asks: nothing is stored, the thought travels with the items, unread."""
    body: dict[str, Any] = {"store": False, "include": ["reasoning.encrypted_content"]}
    first = fresh.ok(PATHS["responses"], body | {"input": "What is 12 + 7?"})
    reasoning = first["output"][0]
    assert reasoning["type"] == "reasoning" and reasoning["encrypted_content"]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "done"}
    asked = {"role": "user", "content": "What is 12 + 7?"}
    bare = {k: v for k, v in reasoning.items() if k != "content"}
    sizes = [
        fresh.ok(PATHS["responses"], body | {"input": items, "max_output_tokens": 600})["usage"]
        for items in ([asked, bare, call, output], [asked, call, output])
    ]
    assert sizes[0]["input_tokens"] > sizes[1]["input_tokens"] + 10, (
        "inside a tool's round it counts"
    )
