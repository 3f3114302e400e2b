"""An agent's turns that end before they begin, and what a function's call may need or raise."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import pytest

from qwen3_mlx import Agent
from qwen3_mlx.errors import OptionError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.tools.events import LoopDone
from tests import tiny
from tests.tools.test_loop import GREEDY, call_text, say_in_turn

USER = contextvars.ContextVar("USER", default="nobody")


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def unsayable() -> str:
    raise Unsayable


def who() -> str:
    return USER.get()


@pytest.mark.parametrize("how", ["interrupt", "loop.stop"])
def test_a_turn_stopped_before_it_is_read_computes_nothing_more(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, how: str
) -> None:
    say_in_turn(monkeypatch, model, ["A long story that nobody waits for."])
    agent = Agent(model, **GREEDY)
    turn = agent.stream("Tell a story")
    (agent.interrupt if how == "interrupt" else agent.loop.stop)()
    assert list(turn)[-1] == LoopDone("interrupted", 1)
    assert agent.session.last_stats is not None
    assert agent.session.last_stats.answer_tokens <= 1
    say_in_turn(monkeypatch, model, ["Yes."])
    assert agent.run("Well?").answer == "Yes."


def test_a_task_cancelled_while_it_waits_stops_itself_alone(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, [call_text("slow"), "Done.", "Never said."])
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        go_on.wait(20)
        return "in the end"

    async def main() -> tuple[Any, list[Any]]:
        agent = Agent(model, [slow], **GREEDY)
        first = asyncio.create_task(agent.arun("Do it"))
        await asyncio.to_thread(began.wait, 20)
        second = asyncio.create_task(agent.arun("And that"))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        go_on.set()
        reply = await first
        assert second.cancelled()
        await asyncio.sleep(0.05)
        return reply, agent.session.messages

    reply, messages = asyncio.run(main())
    assert (reply.answer, reply.ending) == ("Done.", "answered")
    assert reply.results[0].text == "in the end"
    assert [one["content"] for one in messages if one["role"] == "user"] == ["Do it"]


def test_a_function_reads_the_callers_context(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    token = USER.set("Ada")
    try:
        say_in_turn(monkeypatch, model, [call_text("who"), "Yes."])
        assert Agent(model, [who], **GREEDY).run("Who?").results[0].text == "Ada"
        say_in_turn(monkeypatch, model, [call_text("who"), "Yes."])
        reply = asyncio.run(Agent(model, [who], **GREEDY).arun("Who?"))
        assert reply.results[0].text == "Ada"
    finally:
        USER.reset(token)


def test_an_error_without_words_has_failed_at_once(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, [call_text("unsayable"), "Well."])
    began = time.monotonic()
    reply = Agent(model, [unsayable], call_seconds=30, **GREEDY).run("Do it")
    assert time.monotonic() - began < 20
    said = "Error: Unsayable: Unsayable that can't be shown (RuntimeError)"
    assert (reply.results[0].failed, reply.results[0].text) == (True, said)


def test_a_turn_has_the_agents_tools(model: Qwen3) -> None:
    agent = Agent(model, [who], **GREEDY)
    for ask in (agent.run, agent.stream):
        with pytest.raises(OptionError, match=r"tools: got .*the tools that the agent has"):
            ask("Who?", tools=[])


def test_a_tool_that_asks_its_own_agent_is_told_no(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    """Its message came between the call and the result, for ever in the conversation."""
    say_in_turn(monkeypatch, model, [call_text("ask"), "Done."])

    def ask() -> str:
        return agent.run("What now?").answer

    agent = Agent(model, [ask], **GREEDY)
    reply = agent.run("Do it")
    assert "a call of this agent is still running" in reply.results[0].text
    roles = [one["role"] for one in agent.session.messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
    say_in_turn(monkeypatch, model, ["Yes."])
    assert agent.run("Well?").answer == "Yes."
