"""What the model says, in every dialect: the same, streamed or not, counted to the id."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from tests.scripted import say
from tests.serve.asking import CALL_SCRIPT, CALLS, PATHS, SAID, SCRIPT, THOUGHT, ask, body
from tests.serve.server import Server, wait_for

DIALECTS = list(PATHS)
STOP = {"chat": "stop", "messages": "end_turn", "responses": "completed"}
LENGTH = {"chat": "length", "messages": "max_tokens", "responses": "max_output_tokens"}
CALLED = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed"}
LIMIT = {"chat": "max_tokens", "messages": "max_tokens", "responses": "max_output_tokens"}
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
every = pytest.mark.parametrize("dialect", DIALECTS)


def generated(model: Qwen3, script: str) -> int:
    """Ids of a scripted turn, its end included."""
    return len(model.tokenizer.encode(script)) + 1


@every
@both
def test_thought_and_answer_and_exact_usage(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, dialect: str, stream: bool
) -> None:
    say(monkeypatch, demo, SCRIPT)
    said = ask(server, dialect, body(dialect), stream=stream)
    assert (said.thinking, said.answer, said.calls) == (THOUGHT, SAID, [])
    assert said.reason == STOP[dialect]
    prompt = server.ok("/tokenize", {"messages": [{"role": "user", "content": "hi"}]})["count"]
    assert said.usage[0] == prompt and said.usage[2] == generated(demo, SCRIPT)
    thought = generated(demo, f"<think>\n{THOUGHT}\n")  # and </think>, in place of the end
    assert said.usage[3] in (-1, thought, thought - 1)


@every
@both
def test_calls_with_types_and_order(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, dialect: str, stream: bool
) -> None:
    say(monkeypatch, demo, CALL_SCRIPT)
    said = ask(server, dialect, body(dialect, tools=True), stream=stream)
    assert said.calls == CALLS and said.answer.strip() == "One moment."
    assert said.thinking == "I'll look." and said.reason == CALLED[dialect]
    assert said.usage[2] == generated(demo, CALL_SCRIPT)


def test_arguments_come_as_they_grow(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, demo, CALL_SCRIPT)
    sent = server.stream(PATHS["chat"], body("chat", tools=True))
    deltas = [one.data["choices"][0]["delta"] for one in sent[:-1]]
    first = [d for d in deltas if d.get("tool_calls", [{}])[0].get("index") == 0]
    assert len(first) > 4, "a long argument must not be silent"


@every
@both
def test_a_call_that_is_cut_is_text_and_never_lost(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, dialect: str, stream: bool
) -> None:
    script = CALL_SCRIPT.replace("<think>\nI'll look.\n</think>\n\n", "")
    say(monkeypatch, demo, script)
    for limit in range(8, 40, 8):
        short = {LIMIT[dialect]: limit}
        said = ask(server, dialect, body(dialect, tools=True, **short), stream=stream)
        assert said.reason == LENGTH[dialect] and said.usage[2] == limit and not said.calls
        assert script.startswith(said.answer) and len(said.answer) > limit // 2


UNREADABLE = 'One.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo" "days": 1}}\n'
UNREADABLE += "</tool_call>\nTwo."


@every
@both
def test_a_call_that_can_not_be_read_is_text_and_its_item_is_closed(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, dialect: str, stream: bool
) -> None:
    say(monkeypatch, demo, UNREADABLE)
    sent = body(dialect, tools=True, **{LIMIT[dialect]: 300})
    said = ask(server, dialect, sent, stream=stream)
    assert (said.answer, said.calls, said.reason) == (UNREADABLE, [], STOP[dialect])
    if dialect != "responses" or not stream:
        return
    events = server.stream(PATHS[dialect], sent)
    response = events[-1].data["response"]
    kinds = [(item["type"], item["status"]) for item in response["output"]]
    texts = ("message", "completed")
    assert kinds == [texts, ("function_call", "incomplete"), texts]
    added = [one.data["output_index"] for one in events if "item.added" in one.name]
    assert added == [0, 1, 2]


@every
@both
def test_max_tokens(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, dialect: str, stream: bool
) -> None:
    say(monkeypatch, demo, "one two three four five six seven eight nine ten")
    said = ask(server, dialect, body(dialect, **{LIMIT[dialect]: 5}), stream=stream)
    assert said.reason == LENGTH[dialect] and said.usage[2] == 5 and said.usage[3] in (0, -1)
    assert "one two three four five six seven eight nine ten".startswith(said.answer)


@pytest.mark.parametrize("dialect", ["chat", "messages"])
@both
def test_a_stop_text_is_cut_and_told_and_not_looked_for_in_the_thought(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, dialect: str, stream: bool
) -> None:
    say(monkeypatch, demo, "<think>\nnot STOP here\n</think>\n\nabc STOP def")
    name = "stop" if dialect == "chat" else "stop_sequences"
    sent = body(dialect, **{name: ["STOP"]})
    said = ask(server, dialect, sent, stream=stream)
    assert said.thinking == "not STOP here" and said.answer == "abc "
    assert said.reason == ("stop" if dialect == "chat" else "stop_sequence")
    if dialect == "messages" and not stream:
        got = server.ok(PATHS[dialect], sent)
        assert got["stop_sequence"] == "STOP"


@every
def test_a_second_request_reads_its_prompt_from_the_cache(server: Server, dialect: str) -> None:
    long = f"Sort 5, 3, 1 please. {dialect} " * 8
    limit = {LIMIT[dialect]: 20}
    ask(server, dialect, body(dialect, long, **limit), stream=False)
    again = ask(server, dialect, body(dialect, long, **limit), stream=True)
    assert again.usage[1] >= again.usage[0] - 5, "but for the empty thought, which doesn't last"


def test_one_call_alone_if_asked(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, demo, CALL_SCRIPT)
    one: dict[str, dict[str, Any]] = {
        "chat": {"parallel_tool_calls": False},
        "responses": {"parallel_tool_calls": False},
        "messages": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    }
    for dialect, more in one.items():
        for stream in (False, True):
            said = ask(server, dialect, body(dialect, tools=True, **more), stream=stream)
            assert said.calls == CALLS[:1] and said.reason == CALLED[dialect]


@pytest.mark.parametrize("stream", [False, True])
def test_completions_go_on_with_a_text_as_it_is(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    say(monkeypatch, demo, " and <think> then 🙂 more of it")
    ids = demo.tokenizer.encode("Once")
    for prompt in ("Once", ["Once"], ids, [ids]):
        sent = {"prompt": prompt, "max_tokens": 50}
        if not stream:
            got = server.ok("/v1/completions", sent)
            text, reason, usage = got["choices"][0]["text"], got["choices"][0], got["usage"]
        else:
            sent["stream_options"] = {"include_usage": True}
            events = server.stream("/v1/completions", sent)
            assert events[-1].data == "[DONE]"
            chunks = [one.data for one in events[:-1]]
            text = "".join(c["choices"][0]["text"] for c in chunks[:-1])
            reason, usage = chunks[-2]["choices"][0], chunks[-1]["usage"]
        assert text == " and <think> then 🙂 more of it" and reason["finish_reason"] == "stop"
        assert usage["prompt_tokens"] == len(ids)
        assert usage["completion_tokens"] == generated(demo, text)
    assert server.ok("/v1/completions", {"prompt": "a"})["usage"]["completion_tokens"] <= 16


def test_count_tokens_equals_what_the_turn_reports(server: Server) -> None:
    sent = body("messages", "How many?", tools=True, system="Be brief.", max_tokens=600)
    sent["stop_sequences"] = [" ", "e", "a", "."]
    used = ask(server, "messages", sent, stream=False).usage[0]
    asked = {name: value for name, value in sent.items() if name != "max_tokens"}
    for one in (sent, asked):
        assert server.ok("/v1/messages/count_tokens", one) == {"input_tokens": used}


def test_the_page_models_health_and_the_head(server: Server) -> None:
    assert b"<!doctype html>" in server.get("/").body
    assert server("HEAD", "/").status == 200
    one = server.get("/v1/models").json["data"][0]
    assert one["id"] == "demo" and one["max_model_len"] == one["context_length"] > 1000
    assert server.get("/v1/models/demo").json["id"] == "demo"
    assert server.get("/v1/models/gpt-9").json["error"]["code"] == "model_not_found"
    theirs = server.get("/v1/models", anthropic_version="2023-06-01").json
    assert theirs["data"][0]["type"] == "model" and theirs["has_more"] is False
    health = server.get("/health").json
    assert health["status"] == "ok" and health["loop_age_seconds"] < 5


def test_tokens_and_back(server: Server, demo: Qwen3) -> None:
    text = "Hello 世界 🙂 <|im_end|>"
    found = server.ok("/tokenize", {"prompt": text})
    assert found["tokens"] == demo.tokenizer.encode(text) and found["count"] == len(found["tokens"])
    assert server.ok("/tokenize", {"content": text}) == found  # llama.cpp's name
    back = server.ok("/detokenize", {"tokens": found["tokens"]})
    assert text in back.values()
    for wrong in ([-1], [10**9], ["a"], [True], None):
        assert server.post("/detokenize", {"tokens": wrong}).status == 400


def test_metrics_count_what_happened(server: Server) -> None:
    def number(name: str) -> float:
        lines = server.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = {name: number(name) for name in METRICS}
    ask(server, "chat", body("chat", max_tokens=7), stream=True)
    wait_for(lambda: server.desk.busy == 0)
    assert number("qwen3_mlx_turns_total") == before["qwen3_mlx_turns_total"] + 1
    name = 'qwen3_mlx_tokens_total{kind="answer"}'
    assert number(name) >= before[name] + 6
    name = "qwen3_mlx_first_token_seconds_count"
    assert number(name) == before[name] + 1
    assert number("qwen3_mlx_prefix_bytes_limit") > 0 and number("qwen3_mlx_running") == 0


METRICS = (
    "qwen3_mlx_turns_total",
    'qwen3_mlx_tokens_total{kind="answer"}',
    "qwen3_mlx_first_token_seconds_count",
)
