"""An agent in Python: functions as tools, whatever they do; run, stream, asyncio."""

from __future__ import annotations

import asyncio
import copy
import enum
import functools
import itertools
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from qwen3_mlx import Agent
from qwen3_mlx.errors import MessageError, OptionError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.tools.agent import tool_of
from qwen3_mlx.tools.consent import No
from qwen3_mlx.tools.events import LoopDone
from qwen3_mlx.tools.tool import Cancel, Result
from tests import tiny
from tests.tools.test_loop import GREEDY, a_tool, call_text, say_in_turn


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


def weather(city: str) -> str:
    "The weather in a city."
    return f"Rain in {city}."


def test_run_stream_and_arun(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    say_in_turn(monkeypatch, model, [call_text("weather", city="Bergen"), "Yes."])
    reply = Agent(model, tools=[weather], **GREEDY).run("Umbrella?")
    assert (reply.answer, reply.ending, reply.steps) == ("Yes.", "answered", 2)
    assert [one.text for one in reply.results] == ["Rain in Bergen."]
    say_in_turn(monkeypatch, model, [call_text("weather", city="Bergen"), "Yes."])
    events = list(Agent(model, tools=[weather], **GREEDY).stream("Umbrella?"))
    assert events[-1] == LoopDone("answered", 2)
    say_in_turn(monkeypatch, model, [call_text("weather", city="Bergen"), "Yes."])
    assert asyncio.run(Agent(model, tools=[weather], **GREEDY).arun("Umbrella?")).answer == "Yes."


def test_a_cancelled_task_ends_the_turn(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    said = say_in_turn(monkeypatch, model, [call_text("slow"), "Never said."])

    async def slow() -> str:
        await asyncio.sleep(30)
        return "late"

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Agent(model, tools=[slow], **GREEDY).arun("go"), 2)
        await asyncio.sleep(0.5)

    asyncio.run(main())
    assert len(said) == 1


@pytest.mark.parametrize("with_ask", [False, True])
def test_functions_run_unasked_and_a_servers_tools_dont(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, with_ask: bool
) -> None:
    say_in_turn(monkeypatch, model, [call_text("weather", city="X") + call_text("f"), "Done."])
    ask = (lambda call, tool: No("no")) if with_ask else None
    agent = Agent(model, tools=[weather, a_tool(server="disk")], ask=ask, **GREEDY)
    assert [one.failed for one in agent.run("go").results] == [with_ask, True]


@dataclass
class Point:
    x: int
    y: float = 0.0


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no name")


def broken() -> str:
    raise KeyError("gone")


async def later() -> Point:
    return Point(1, 2.0)


def circle() -> list[Any]:
    one: list[Any] = []
    one.append(one)
    return one


@pytest.mark.parametrize(
    ("function", "failed", "text"),
    [
        (broken, True, "KeyError: 'gone'"),
        (later, False, '{"x": 1, "y": 2.0}'),
        (lambda: None, False, "null"),
        (lambda: {"ä": [1, {2}]}, False, '{"ä": [1, [2]]}'),
        (lambda: b"\x00\xff", False, "b'"),
        (circle, False, "[...]"),
        (lambda: Odd(), False, ""),
    ],
)
def test_whatever_a_function_gives_is_text(function: Any, failed: bool, text: str) -> None:
    result = tool_of(function).run({}, Cancel())
    assert result.failed == failed and text in result.text


class Color(enum.Enum):
    RED = "red"


class Model:
    "As pydantic's models are."

    def model_dump(self, mode: str) -> dict[str, str]:
        return {"mode": mode}


def several() -> Iterator[Color]:
    yield Color.RED
    yield Color.RED


async def several_later() -> AsyncIterator[int]:
    yield 1
    yield 2


class Waits:
    def __await__(self) -> Iterator[Any]:
        yield from asyncio.sleep(0).__await__()
        return 7


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (several, '["red", "red"]'),
        (several_later, "[1, 2]"),
        (lambda: Waits(), "7"),
        (lambda: map(int, "12"), "[1, 2]"),
        (lambda: {"a": range(2), "b": {"k": 1}.values()}, '{"a": [0, 1], "b": [1]}'),
        (lambda: Color.RED, '"red"'),
        (lambda: enum.StrEnum("S", "A").A, "a"),  # type: ignore[attr-defined]
        (lambda: {Color.RED: 1, (1, 2): 2}, '{"red": 1, "(1, 2)": 2}'),
        (lambda: [Model(), {"of": Model()}], '[{"mode": "json"}, {"of": {"mode": "json"}}]'),
        (lambda: Model(), '{"mode": "json"}'),
        (lambda: Model, f'"{Model!s}"'),
        (lambda: [Point(1, Model())], '[{"x": 1, "y": {"mode": "json"}}]'),  # type: ignore[arg-type]
        (lambda: np.int64(3), "3"),
        (lambda: {"a": np.arange(2000)}, '{"a": ' + str(list(range(2000))) + "}"),
    ],
)
def test_values_are_read_as_json(function: Any, text: str) -> None:
    assert tool_of(function).run({}, Cancel()) == Result(text)


def broken_midway() -> Iterator[int]:
    yield 1
    raise KeyError("gone")


class Frame:
    """As the tables of pandas, polars and pyarrow: a collection of its columns' names."""

    def __init__(self, reader: str) -> None:
        setattr(self, reader, lambda *given: [{"a": 1}, {"a": 2}])

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __contains__(self, one: object) -> bool:
        return one == "a"


@pytest.mark.parametrize("reader", ["to_dict", "to_dicts", "to_pylist"])
def test_a_table_is_its_rows(reader: str) -> None:
    run = tool_of(lambda: Frame(reader)).run
    assert run({}, Cancel()) == Result('[{"a": 1}, {"a": 2}]')


async def endless() -> AsyncIterator[int]:
    while True:
        yield 1


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (broken_midway, "KeyError: 'gone'"),
        (itertools.count().__iter__, "ValueError: it yields more than 100,000 items"),
        (endless, "ValueError: it yields more than 100,000 items"),
    ],
)
def test_a_generator_that_fails_or_does_not_end_is_a_failed_call(function: Any, text: str) -> None:
    assert tool_of(function).run({}, Cancel()) == Result(text, failed=True)


@pytest.mark.parametrize("arguments", [{}, {"city": 3}, {"city": "A", "land": "B"}])
def test_wrong_arguments_are_told_to_the_model(arguments: dict[str, Any]) -> None:
    result = tool_of(weather).run(arguments, Cancel())
    assert result.failed and result.text.startswith("ValueError: ")


@pytest.mark.parametrize("given", ["demo", None, 5])
def test_a_name_is_no_model(given: Any) -> None:
    with pytest.raises(OptionError, match=r"model: got .*, expected a loaded model"):
        Agent(given)


@pytest.mark.parametrize(
    "given", [{"tools": len}, {"tools": "f"}, {"tools": {"f": len}}, {"allow": "files.*"}]
)
def test_one_item_in_place_of_a_list_is_refused(model: Qwen3, given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(given))}: got .*, expected a list of them"):
        Agent(model, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_steps": 0}, "max_steps: got 0, expected a whole number, 1 or more"),
        ({"max_steps": "3"}, "max_steps: got '3', expected a whole number"),
        ({"max_steps": None}, "max_steps: got None"),
        ({"call_seconds": 0}, "call_seconds: got 0, expected a number from"),
        ({"call_seconds": float("nan")}, "call_seconds: got nan"),
        ({"call_seconds": float("inf")}, "call_seconds: got inf"),
        ({"call_seconds": "60"}, "call_seconds: got '60'"),
        ({"ask": True}, "ask: got True, expected a function"),
    ],
)
def test_a_limit_that_is_none_is_refused(model: Qwen3, given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as found:
        Agent(model, [weather], **given)
    assert str(found.value).startswith(said)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("no"), GeneratorExit()])
def test_a_function_that_exits_has_failed(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, error: BaseException
) -> None:
    """The thread ended in silence, and the turn waited for its result until the time was up."""

    def leave() -> str:
        raise error

    async def leave_later() -> str:
        raise error

    for function in (leave, leave_later):
        say_in_turn(monkeypatch, model, [call_text(function.__name__), "Gone."])
        began = time.monotonic()
        reply = Agent(model, tools=[function], call_seconds=20, **GREEDY).run("go")
        assert time.monotonic() - began < 10 and reply.answer == "Gone."
        assert [one.failed for one in reply.results] == [True]
        assert type(error).__name__ in reply.results[0].text


def test_none_is_no_message(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    """The last message was answered again."""
    say_in_turn(monkeypatch, model, ["Yes.", "Never said."])
    agent = Agent(model, **GREEDY)
    agent.run("Umbrella?")
    with pytest.raises(MessageError, match="the message: got None"):
        agent.run(None)  # type: ignore[arg-type]
    assert agent.session.messages[-1]["content"] == "Yes."


def test_a_reply_goes_to_another_process(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    """Its results hold the tools, whose functions can't be pickled."""
    say_in_turn(monkeypatch, model, [call_text("weather", city="Bergen"), "Yes."])
    reply = Agent(model, tools=[weather], **GREEDY).run("Umbrella?")
    tool = reply.results[0].tool
    assert tool is not None and copy.deepcopy(reply) == reply and copy.copy(tool) is tool
    back = pickle.loads(pickle.dumps(reply))
    found = back.results[0].tool
    assert replace(back, results=()) == replace(reply, results=())
    assert replace(found, run=tool.run) == tool
    assert back.results[0].text == "Rain in Bergen."
    assert found.run({"city": "Bergen"}, Cancel()).failed


@pytest.mark.parametrize("one", [lambda city: city, functools.partial(lambda a, b: a, 1)])
def test_a_lambda_has_no_name_to_be_called_by(model: Qwen3, one: Any) -> None:
    with pytest.raises(OptionError, match="tools: got a lambda, expected functions with a name"):
        Agent(model, tools=[one])
    one = lambda city: city  # noqa: E731
    one.__name__ = "weather"
    assert [*Agent(model, tools=[one]).loop.tools] == ["weather"]
