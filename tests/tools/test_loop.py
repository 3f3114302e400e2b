"""The tool loop with a scripted model: order, consent, endings, and what each step computes."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from qwen3_mlx.errors import ContextError, OptionError
from qwen3_mlx.events import Done, Stats, ToolCall
from qwen3_mlx.model import Qwen3
from qwen3_mlx.tools.consent import Always, Ask, Consent, Decision, No, Once
from qwen3_mlx.tools.events import LoopDone, ToolResult, ToolRun
from qwen3_mlx.tools.loop import ToolLoop
from qwen3_mlx.tools.tool import Cancel, Result, Tool
from tests import scripted, tiny

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 120, "thinking": False}


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


def call_text(name: str = "f", /, **arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


def say_in_turn(monkeypatch: pytest.MonkeyPatch, model: Qwen3, said: Sequence[str]) -> list[str]:
    """Have the model say these, one a step, the last of them ever again; returns the prompts."""
    prompts: list[str] = []

    def reply(prompt: str) -> str:
        prompts.append(prompt)
        return said[min(len(prompts), len(said)) - 1]

    scripted.answer(monkeypatch, model, reply)
    return prompts


def a_tool(run: Callable[..., Any] | None = None, name: str = "f", server: str = "") -> Tool:
    def work(arguments: dict[str, Any], cancel: Cancel) -> Result:
        return Result(str(run(**arguments)) if run else f"{name} {arguments}")

    return Tool(name, "Does it.", {"type": "object"}, work, server=server)


def a_loop(
    model: Qwen3,
    *tools: Tool,
    ask: Ask | None = None,
    allowed: Sequence[str] = ("f", "g"),
    **more: Any,
) -> ToolLoop:
    session = model.session(**GREEDY)
    return ToolLoop(session, tools or [a_tool()], Consent(ask, allowed), **more)


def results(events: Sequence[Any]) -> list[ToolResult]:
    return [event for event in events if isinstance(event, ToolResult)]


def done(events: Sequence[Any]) -> LoopDone:
    assert isinstance(events[-1], LoopDone)
    return events[-1]


def test_parallel_calls_run_in_order_and_ids_pair(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    both = call_text("f", n=1) + "\n" + call_text("g", n=2)
    prompts = say_in_turn(monkeypatch, model, [both, "Done."])
    loop = a_loop(model, a_tool(), a_tool(name="g"))
    events = list(loop.send("go"))
    assert [one.text for one in results(events)] == ["f {'n': 1}", "g {'n': 2}"]
    assert done(events) == LoopDone("answered", 2)
    _, asked, first, second, last = loop.session.messages
    assert [one["id"] for one in asked["tool_calls"]] == [
        first["tool_call_id"],
        second["tool_call_id"],
    ]
    assert first["tool_call_id"] != second["tool_call_id"]
    assert last["content"] == "Done." and "f {'n': 1}" in prompts[1]


def test_a_turn_ends_after_20_steps_and_the_last_calls_have_results(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, [call_text(n=n) for n in range(40)])
    loop = a_loop(model)
    events = list(loop.send("go"))
    assert done(events) == LoopDone("steps", 20)
    assert len([e for e in events if isinstance(e, ToolRun)]) == 19
    assert "has had all its steps" in loop.session.messages[-1]["content"]


def test_the_same_call_three_times_ends_it(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    say_in_turn(monkeypatch, model, [call_text(n=1)])
    loop = a_loop(model)
    events = list(loop.send("go"))
    assert done(events) == LoopDone("repeated", 3)
    assert [one.failed for one in results(events)] == [False, False, True]
    say_in_turn(monkeypatch, model, ["Sorry."])
    assert done(list(loop.send("and now?"))) == LoopDone("answered", 1)


def test_an_unreadable_call_is_told_once(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    prompts = say_in_turn(monkeypatch, model, ['<tool_call>\n{"name": \n</tool_call>'])
    events = list(a_loop(model).send("go"))
    assert done(events) == LoopDone("answered", 2)
    assert not results(events) and "can't be read" in prompts[1]


def test_a_call_when_all_tools_are_gone_is_told_so(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    prompts = say_in_turn(monkeypatch, model, [call_text(), "Then without."])
    loop = a_loop(model)
    loop.offer([])
    assert done(list(loop.send("go"))) == LoopDone("answered", 2)
    assert "no tools any more" in prompts[1]


def test_an_unknown_tool_is_told_with_the_names_there_are(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, [call_text("nope"), "Oh."])
    events = list(a_loop(model, a_tool(), a_tool(name="g")).send("go"))
    (result,) = results(events)
    assert result.failed and "nope" in result.text and "f, g" in result.text
    assert done(events) == LoopDone("answered", 2)


@pytest.mark.parametrize(
    ("decision", "asked", "ran", "text"),
    [
        (Once(), 2, [1, 2], "got 1"),
        (Always(), 1, [1, 2], "got 1"),
        (No("not on a Sunday"), 2, [], "not on a Sunday"),
        (Once({"n": 7}), 2, [7, 7], 'run with {"n": 7}'),
    ],
)
def test_consent(
    monkeypatch: pytest.MonkeyPatch,
    model: Qwen3,
    decision: Decision,
    asked: int,
    ran: list[int],
    text: str,
) -> None:
    say_in_turn(monkeypatch, model, [call_text(n=1), call_text(n=2), "Done."])
    calls: list[int] = []
    seen: list[ToolCall] = []

    def work(n: int) -> str:
        calls.append(n)
        return f"got {n}"

    def ask(call: ToolCall, tool: Tool) -> Decision:
        seen.append(call)
        return decision

    events = list(a_loop(model, a_tool(work), ask=ask, allowed=()).send("go"))
    assert (len(seen), calls) == (asked, ran)
    assert text in results(events)[0].text


@pytest.mark.parametrize(
    ("allowed", "runs"),
    [((), False), (("f",), False), (("disk.f",), True), (("disk.*",), True), (("other.*",), False)],
)
def test_nobody_to_ask_means_denied_unless_named(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, allowed: tuple[str, ...], runs: bool
) -> None:
    say_in_turn(monkeypatch, model, [call_text(), "Done."])
    events = list(a_loop(model, a_tool(server="disk"), allowed=allowed).send("go"))
    assert any(isinstance(event, ToolRun) for event in events) == runs
    assert results(events)[0].failed != runs
    assert results(events)[0].text.startswith("[disk.f]") == runs


def test_an_interrupt_ends_the_call_and_a_second_the_turn(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, [call_text(n=1), call_text(n=2), "Never said."])
    started = threading.Event()

    def work(n: int) -> str:
        started.set()
        time.sleep(5)
        return "late"

    loop = a_loop(model, a_tool(work))
    events = []
    for event in loop.send("go"):
        events.append(event)
        if isinstance(event, ToolRun):
            started.clear()
            threading.Thread(target=_interrupt_after, args=(loop, started, len(events))).start()
        if isinstance(event, ToolResult) and len(results(events)) == 2:
            loop.interrupt()
    assert [one.failed for one in results(events)] == [True, True]
    assert "ended this call" in results(events)[0].text
    assert done(events) == LoopDone("interrupted", 2)
    assert [m["role"] for m in loop.session.messages].count("tool") == 2


@pytest.mark.parametrize("moment", ["asked", "about to run"])
def test_a_turn_that_is_ended_before_its_call_runs_does_not_run_it(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, moment: str
) -> None:
    say_in_turn(monkeypatch, model, [call_text() + call_text("g"), "Never said."])
    ran: list[str] = []

    def ask(call: ToolCall, tool: Tool) -> Decision:
        if moment == "asked":
            loop.interrupt()
        return Once()

    loop = a_loop(model, *(a_tool(lambda: ran.append("x"), name) for name in "fg"), ask=ask)
    loop.consent.allowed.clear()
    events = []
    for event in loop.send("go"):
        events.append(event)
        if isinstance(event, ToolRun) and moment == "about to run":
            loop.interrupt()
    assert ran == [] and done(events) == LoopDone("interrupted", 1)
    assert ["the user ended the turn" in one.text.lower() for one in results(events)] == [True] * 2
    _each_call_has_a_result(loop)


def _interrupt_after(loop: ToolLoop, started: threading.Event, _: int) -> None:
    started.wait(5)
    loop.interrupt()


@pytest.mark.parametrize("failed", [True, False])
def test_what_an_ended_call_still_says_counts_if_it_is_no_error(model: Qwen3, failed: bool) -> None:
    """A server's error about the end that the user wanted may come before the loop looks."""

    def work(arguments: dict[str, Any], cancel: Cancel) -> Result:
        loop.interrupt()
        return Result("cancelled" if failed else "all read", failed=failed)

    loop = a_loop(model)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(2)  # the call's thread gets to its end before the loop looks
    try:
        found = loop.run(Tool("f", "", {"type": "object"}, work), {})
    finally:
        sys.setswitchinterval(switch)
    assert found.failed == failed
    assert found.text.startswith("The user ended this call" if failed else "all read")


def test_a_call_that_never_returns_is_given_up(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, [call_text(), "Then without it."])
    forever = threading.Event()
    loop = a_loop(model, a_tool(lambda: forever.wait(20)), call_seconds=0.1)
    events = list(loop.send("go"))
    forever.set()
    assert "no result within 0.1 seconds" in results(events)[0].text
    assert done(events) == LoopDone("answered", 2)


def test_each_step_computes_its_new_part_only(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    said = [f"<think>\nStep {n}.\n</think>\n\n{call_text(n=n)}" for n in range(9)]
    say_in_turn(monkeypatch, model, [*said, "Done."])
    loop = a_loop(model)
    events = list(loop.send("go", thinking=True))
    stats: list[Stats] = [event.stats for event in events if isinstance(event, Done)]
    assert done(events) == LoopDone("answered", 10) and len(stats) == 10
    for before, after in itertools.pairwise(stats):
        # The tests' template writes a call differently than this model said it.
        assert after.cached_tokens >= before.prompt_tokens + before.thinking_tokens
        assert after.prompt_tokens - after.cached_tokens < 120


def test_one_budget_spans_the_steps(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    thought = "<think>\n" + "word " * 12 + "\n</think>\n\n"
    said = [thought + call_text(n=n) for n in range(4)]
    say_in_turn(monkeypatch, model, [*said, "Done."])
    events = list(a_loop(model).send("go", thinking=True, thinking_budget=40, max_tokens=300))
    spent = [event.stats.thinking_tokens for event in events if isinstance(event, Done)]
    assert sum(spent) <= 40 and spent[0] > 0


def test_a_long_result_keeps_its_head_and_its_tail(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    say_in_turn(monkeypatch, model, [call_text(), "Done."])
    text = "HEAD " + "middle " * 2_000_000 + "TAIL"
    loop = a_loop(model, a_tool(lambda: text), result_tokens=200)
    (result,) = results(list(loop.send("go")))
    assert result.text.startswith("HEAD") and result.text.endswith("TAIL")
    assert "characters left out" in result.text
    assert len(model.tokenizer.encode(result.text)) <= 200


def test_tools_that_are_too_many_are_said_to_be(model: Qwen3) -> None:
    loop = a_loop(model, *(a_tool(name=f"f{n}" + "x" * 90) for n in range(60)))
    with pytest.raises(ContextError, match="of them for 60 tools") as raised:
        list(loop.send("go"))
    assert "includeTools" in (raised.value.hint or "") and loop.session.messages == []


def test_two_tools_of_one_name_are_refused(model: Qwen3) -> None:
    with pytest.raises(OptionError, match="two named 'f'"):
        a_loop(model, a_tool(), a_tool())


@pytest.mark.parametrize("kept", range(12))
def test_a_turn_that_is_left_at_any_event_has_a_result_for_each_call(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, kept: int
) -> None:
    both = call_text(n=1) + "\n" + call_text(n=2)
    say_in_turn(monkeypatch, model, [both, "Done."])
    loop = a_loop(model)
    events = loop.send("go")
    for _ in itertools.islice(events, kept):
        pass
    events.close()
    _each_call_has_a_result(loop)


@pytest.mark.parametrize("refused", [1, 2])
def test_an_error_in_consent_leaves_a_result_for_each_call(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, refused: int
) -> None:
    both = call_text(n=1) + "\n" + call_text(n=2)
    say_in_turn(monkeypatch, model, [both, "Done."])

    def ask(call: ToolCall, tool: Tool) -> Decision:
        if call.arguments["n"] == refused:
            raise KeyboardInterrupt
        return Once()

    loop = a_loop(model, ask=ask, allowed=())
    with pytest.raises(KeyboardInterrupt):
        list(loop.send("go"))
    _each_call_has_a_result(loop)
    answers = [m["content"] for m in loop.session.messages if m["role"] == "tool"]
    assert ["broken off" in text for text in answers] == [refused == 1, True]


def _each_call_has_a_result(loop: ToolLoop) -> None:
    asked = [c["id"] for m in loop.session.messages for c in m.get("tool_calls", ())]
    given = [m["tool_call_id"] for m in loop.session.messages if m["role"] == "tool"]
    assert given == asked
