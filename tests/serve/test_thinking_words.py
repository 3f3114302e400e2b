"""Every name that programs have for thinking means one budget; two that differ are refused."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.chat.request import Request
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import Family
from qwen3_mlx.serve import chat_completions, messages, responses, thinking
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.ask import ready
from qwen3_mlx.serve.fields import Fields
from tests import tiny
from tests.scripted import say
from tests.serve.asking import ask, body
from tests.serve.server import Server

SAME = [
    {"thinking_budget": 100},
    {"thinking_token_budget": 100},
    {"thinking_budget_tokens": 100},
    {"reasoning_max_tokens": 100},
    {"reasoning": {"max_tokens": 100}},
    {"thinking": {"type": "enabled", "budget_tokens": 100}},
    {"chat_template_kwargs": {"thinking_budget": 100, "enable_thinking": True}},
    {"thinking_budget": 100, "thinking_token_budget": 100, "enable_thinking": True},
]
OFF = [
    {"enable_thinking": False},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"thinking": {"type": "disabled"}},
    {"thinking": False},
    {"think": False},
    {"reasoning": {"enabled": False}},
    {"reasoning_effort": "none"},
    {"reasoning": {"effort": "none"}},
    {"thinking_budget": 0},
    {"think": "none"},
    {"enable_thinking": False, "thinking_budget": 0, "reasoning_effort": "none"},
    {"thinking": {"type": "enabled", "budget_tokens": 0}},
    {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
    {"enable_thinking": False, "reasoning_effort": "medium"},
]
EFFORTS = [
    {"reasoning_effort": "low"},
    {"reasoning": {"effort": "low"}},
    {"think": "low"},
    {"think": "low", "reasoning_effort": "default"},
    {"reasoning_effort": "low", "reasoning": {"effort": ""}},
    {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"thinking_budget": 100, "thinking_token_budget": 200}, "thinking_token_budget 200"),
    ({"enable_thinking": True, "think": False}, "contradict"),
    ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "contradict"),
    ({"enable_thinking": True, "thinking_budget": 0}, "enable_thinking true and thinking_budget 0"),
    (
        {"enable_thinking": False, "thinking_budget": 9},
        "thinking_budget 9 and enable_thinking false",
    ),
    ({"enable_thinking": False, "thinking_budget": "auto"}, "thinking_budget auto"),
    ({"think": False, "reasoning": {"max_tokens": 9}}, "reasoning.max_tokens 9 and think false"),
    ({"enable_thinking": True, "reasoning_effort": "none"}, 'reasoning_effort "none" contradict'),
    ({"thinking_budget": 9, "reasoning_effort": "none"}, 'reasoning_effort "none" contradict'),
    ({"reasoning": {"enabled": True, "effort": "none"}}, 'reasoning.effort "none" contradict'),
    ({"reasoning_effort": "lots"}, "minimal"),
    ({"think": "lots", "reasoning_effort": "default"}, "think: got"),
    ({"think": "low", "reasoning_effort": "high"}, "contradict"),
    ({"thinking": {"type": "always"}}, "adaptive"),
    ({"thinking": {"type": "enabled", "budget_tokens": "9"}}, "thinking.budget_tokens"),
    ({"thinking_budget": True}, "thinking_budget"),
    ({"thinking_budget": 1.5}, "thinking_budget"),
    ({"thinking_budget": int("9" * 4300), "max_tokens": 99}, "64 bits"),
    ({"max_tokens": 1e300}, "64 bits"),
]


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(max_position_embeddings=40_000))


def prepared(model: Qwen3, more: dict[str, Any]) -> Request:
    return ready(model.runtime, chat_completions.read(body("chat") | more))


@pytest.mark.parametrize("more", SAME, ids=str)
def test_one_budget_under_every_name(model: Qwen3, more: dict[str, Any]) -> None:
    found = prepared(model, more)
    assert found.mode.thinking and found.budget.limit == 100


@pytest.mark.parametrize("more", OFF, ids=str)
def test_off_under_every_name(model: Qwen3, more: dict[str, Any]) -> None:
    assert not prepared(model, more).mode.thinking


@pytest.mark.parametrize("more", EFFORTS, ids=str)
def test_efforts(model: Qwen3, more: dict[str, Any]) -> None:
    assert prepared(model, more).budget.limit == thinking.EFFORTS["low"]


def test_no_limit_where_nobody_sets_one(model: Qwen3) -> None:
    for more in ({}, {"reasoning_effort": "max"}, {"thinking": {"type": "adaptive"}}):
        found = prepared(model, more)
        assert found.mode.thinking and found.budget.limit is None


@pytest.mark.parametrize(("more", "words"), WRONG, ids=lambda v: str(v)[:60])
def test_what_contradicts_itself(model: Qwen3, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as caught:
        prepared(model, more)
    assert caught.value.status == 400 and words in caught.value.message


@pytest.mark.parametrize("most", [1, 16, 255, 256, 511, 512, 1000, 4096, 32_000])
@pytest.mark.parametrize("more", [{}, {"reasoning_effort": "high"}, {"reasoning_effort": "max"}])
def test_max_tokens_alone_leaves_room_for_an_answer(
    model: Qwen3, most: int, more: dict[str, Any]
) -> None:
    found = prepared(model, {"max_tokens": most} | more)
    assert found.max_tokens == most
    if found.mode.thinking and found.budget.limit is not None:
        left = most - found.budget.limit - len(found.budget.stop_ids)
        assert left >= 1 and (more or left >= 100)
    assert found.mode.thinking or most < 512


@pytest.mark.parametrize("more", [{"reasoning_effort": "high"}, {"max_tokens": 30_000}])
@pytest.mark.parametrize("left", [2, 24, 26, 300, 3000, 12_000])
def test_a_long_prompt_leaves_room_for_an_answer_too(
    model: Qwen3, left: int, more: dict[str, Any]
) -> None:
    """An effort is a wish: what the context has left bounds it, as max_tokens does."""
    long = "a" * (model.config.context - left - len(prepared(model, {}).prompt) + 2)
    found = prepared(model, more | {"messages": [{"role": "user", "content": long}]})
    assert left - 1 <= found.max_tokens <= left
    if found.budget.limit is not None:
        after = found.max_tokens - found.budget.limit - len(found.budget.stop_ids)
        assert after >= 1 and (left < 600 or after >= 200)


def test_an_explicit_budget_without_room_says_the_sum(server: Server) -> None:
    got = server.post("/v1/chat/completions", body("chat", thinking_budget=500, max_tokens=510))
    assert got.status == 400 and "524" in got.json["error"]["message"], got.body


@pytest.mark.parametrize("family", ["instruct", "coder"])
def test_models_that_never_think_ignore_all_of_it(family: Family) -> None:
    for more in [*SAME, *OFF, *EFFORTS]:
        asked = thinking.read(Fields(dict(more)))
        assert thinking.options(asked, family, 1000) == {}


def test_models_that_always_think_are_cut_early_where_they_should_not() -> None:
    model = Qwen3(tiny.runtime(opened=True))
    for more in OFF:
        found = prepared(model, more)
        assert found.mode.thinking and found.budget.limit == 1


def test_all_dialects_read_them(model: Qwen3) -> None:
    kept = responses.Kept()
    asked = [
        chat_completions.read(body("chat", thinking_budget=77)),
        messages.read(body("messages", thinking={"type": "enabled", "budget_tokens": 77})),
        responses.read(body("responses", reasoning={"max_tokens": 77}), kept),
    ]
    assert [one.thinking.budget for one in asked] == [77, 77, 77]


@pytest.mark.parametrize("stream", [False, True])
def test_the_cut_over_http(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    thought = " and so on" * 60

    def script(said: str) -> str:
        if "</think>" in said:
            return "" if said.endswith("Four.") else "Four."
        return f"<think>\n{thought}"[len(said) :]

    say(monkeypatch, demo, script)
    said = ask(server, "chat", body("chat", thinking_budget=20), stream=stream)
    assert said.answer == "Four." and said.usage[3] == 20 and said.reason == "stop"
    assert "limited time" in said.thinking
    stop_text = len(demo.tokenizer.encode(STOP_TEXT))
    assert said.usage[2] == 20 + stop_text + len(demo.tokenizer.encode("Four.")) + 1
    if not stream:
        got = server.ok("/v1/chat/completions", body("chat", thinking_budget=20))
        assert got["choices"][0]["thinking_cut"] == "budget"


STOP_TEXT = (
    "\n\nConsidering the limited time by the user, I have to give the solution"
    " based on the thinking directly now.\n</think>\n\n"
)
