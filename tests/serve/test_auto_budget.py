"""An automatic budget over HTTP: our own field takes its words, and probes end a thought."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwen3_mlx.chat.request import Request
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options.auto_budget import AutoBudget
from qwen3_mlx.serve import chat_completions, thinking
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.ask import ready
from qwen3_mlx.serve.fields import Fields
from tests import tiny
from tests.serve.asking import PATHS, Said, ask, body
from tests.serve.server import Server

SUM = "Compute 70 * 12 + (8 - 8)"
OFTEN = {"floor": 8, "interval": 16, "certainty": 0.9}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(max_position_embeddings=4_000))


def prepared(model: Qwen3, **more: Any) -> Request:
    return ready(model.runtime, chat_completions.read(body("chat", **more)))


@pytest.mark.parametrize(
    ("given", "want", "limit"),
    [
        ("auto", AutoBudget(), None), ("auto:2048", AutoBudget(cap=2048), 2048),
        ("low", AutoBudget(1024, certainty=0.8, level="low"), 1024), ("high", None, None),
        ({"cap": 99, "first": True}, AutoBudget(cap=99, first=True), 99),
        ({}, AutoBudget(), None),
    ],
)  # fmt: skip
def test_its_words(model: Qwen3, given: Any, want: AutoBudget | None, limit: int | None) -> None:
    for more in ({"thinking_budget": given}, {"chat_template_kwargs": {"thinking_budget": given}}):
        found = prepared(model, **more)
        assert found.mode.thinking and found.options.budget == want
        assert found.budget.limit == limit
    adaptive = prepared(model, thinking_budget=given, thinking={"type": "adaptive"})
    assert adaptive.options.budget == want


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"thinking_budget": "automatic"}, "auto:N"), ({"thinking_budget": "auto:0"}, "cap"),
        ({"thinking_budget": "512"}, "no quotes"), ({"thinking_budget": {"most": 9}}, "'most'"),
        ({"thinking_budget": {"certainty": 2}}, "at most 1"),
        ({"chat_template_kwargs": {"thinking_budget": "x"}}, "chat_template_kwargs.thinking"),
        ({"thinking_token_budget": "auto"}, "whole number"),  # vLLM's is a number
        ({"thinking": {"type": "enabled", "budget_tokens": "auto"}}, "whole number"),
        ({"reasoning": {"max_tokens": "auto"}}, "whole number"),
        ({"reasoning_effort": "auto"}, "minimal"),
        ({"thinking_budget": "auto", "thinking_token_budget": 9}, "contradict"),
        ({"thinking_budget": "high", "thinking_token_budget": 9}, "contradict"),
    ],
)  # fmt: skip
def test_what_is_none(more: Json, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        thinking.read(Fields(more))
    assert caught.value.status == 400 and words in caught.value.message
    assert caught.value.param and caught.value.param.split(".")[0] in more


def test_what_the_model_has_no_room_for_is_refused(server: Server) -> None:
    for dialect, path in PATHS.items():
        got = server.post(path, body(dialect, thinking_budget="auto:999999"))
        assert got.status == 400 and "the context" in got.json["error"]["message"], got.body


@pytest.mark.parametrize("most", [30, 300, 4_000, 10**6])
@pytest.mark.parametrize("given", ["auto", "auto:3999", "medium", "high"])
def test_an_answer_keeps_its_room(model: Qwen3, most: int, given: str) -> None:
    found = prepared(model, thinking_budget=given, max_tokens=most)
    assert found.mode.thinking
    if most == 30:  # not even the text that ends a thought has room
        assert found.budget.limit is None
    else:
        assert found.budget.limit is not None
        after = found.max_tokens - found.budget.limit - len(found.budget.stop_ids)
        assert after >= min(200, most // 4)


def test_models_that_never_think_take_it_without_a_word() -> None:
    assert thinking.options(thinking.Asked(budget=AutoBudget()), "coder", 1000) == {}


def asked(server: Server, dialect: str, budget: Any, *, stream: bool = False) -> Said:
    more = {"thinking_budget": budget} if budget else {}
    return ask(server, dialect, body(dialect, SUM, temperature=0, **more), stream=stream)


@pytest.mark.parametrize("dialect", list(PATHS))
def test_a_thought_ends_once_the_answer_is_sure(server: Server, dialect: str) -> None:
    sure = asked(server, dialect, OFTEN)
    assert "840" in sure.answer and "limited time" in sure.thinking
    streamed = asked(server, dialect, OFTEN, stream=True)
    assert (streamed.thinking, streamed.answer) == (sure.thinking, sure.answer)
    assert streamed.usage[2:] == sure.usage[2:]


def test_the_cut_is_told(server: Server) -> None:
    sent = body("chat", SUM, temperature=0, thinking_budget=OFTEN)
    chunks = [one.data for one in server.stream(PATHS["chat"], sent) if one.data != "[DONE]"]
    assert chunks[-1]["choices"][0]["thinking_cut"] == "sure"


def test_probes_leave_who_runs_beside_them_alone(server: Server) -> None:
    """Probes come between the steps of others: all say what they say alone."""
    budgets = [OFTEN, None, OFTEN]
    sure, full = (asked(server, "chat", budget) for budget in budgets[:2])
    assert 8 <= sure.usage[3] < full.usage[3]
    with ThreadPoolExecutor(len(budgets)) as pool:
        together = list(pool.map(lambda budget: asked(server, "chat", budget), budgets))
    for got, want in zip(together, (sure, full, sure), strict=True):
        assert (got.thinking, got.answer) == (want.thinking, want.answer)
        assert got.usage[2:] == want.usage[2:]
