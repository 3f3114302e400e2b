"""An agent in Python: a model that may call functions and MCP tools to answer a question.

>>> from qwen3_mlx import Agent, load
>>> def weather(city: str) -> str:
...     "The weather in a city."
...     return f"Rain in {city}."
>>> Agent(load("8b"), tools=[weather]).run("Do I need an umbrella in Bergen?").answer
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.chat.given import listed
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.errors import MessageError, OptionError, shown
from qwen3_mlx.events import Answer, Stats, Thinking
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.options.plain_numbers import within
from qwen3_mlx.tools.consent import Ask, Consent
from qwen3_mlx.tools.events import Ending, LoopDone, LoopEvent, ToolResult
from qwen3_mlx.tools.function_arguments import converted
from qwen3_mlx.tools.function_result import MOST_ITEMS, as_text
from qwen3_mlx.tools.function_schema import name_of, schema_of
from qwen3_mlx.tools.loop import MAX_STEPS, ToolLoop
from qwen3_mlx.tools.surrogates import whole_json, whole_text
from qwen3_mlx.tools.tool import CALL_SECONDS, Cancel, Result, Tool, failure


@dataclass(frozen=True, slots=True)
class AgentReply:
    """The result of a whole user turn: the last step's answer, and all steps' tool results."""

    answer: str
    thinking: str
    """The thinking of all steps."""
    results: tuple[ToolResult, ...]
    ending: Ending
    steps: int
    stats: Stats | None
    """The statistics of the last step."""


class Agent:
    """A conversation with a model that may call functions and tools.

    tools: Python functions, whose signatures and docstrings become their schemas, and `Tool`s, such
        as those of ``McpServers.tools()``. Functions run without asking; a server's tools run only
        if `allow` names them (``server.tool`` or ``server.*``) or `ask` permits the call. With
        `ask`, functions need its permission too.
    options: those of every step, as in ``model.generate``; the thinking budget spans a whole turn.

    Not for concurrent use. Raises `OptionError` for a function that no schema can
    describe or that has no name, for one item in place of a list, for a name in place of a model,
    and for a limit out of range.
    """

    def __init__(
        self,
        model: Qwen3,
        tools: Iterable[Callable[..., Any] | Tool] = (),
        *,
        system: str | None = None,
        ask: Ask | None = None,
        allow: Iterable[str] = (),
        max_steps: int = MAX_STEPS,
        call_seconds: float = CALL_SECONDS,
        **options: Any,
    ) -> None:
        if not callable(getattr(model, "session", None)):
            hint = 'Agent(load("8b"), tools)'
            raise OptionError("model", got=shown(model), expected="a loaded model", hint=hint)
        steps = within(max_steps, 1, math.inf, integer=True)
        if steps is None:
            got, expected = shown(max_steps), "a whole number, 1 or more"
            raise OptionError("max_steps", got=got, expected=expected)
        most = within(call_seconds, 1e-3, 1e6, integer=False)
        if most is None:
            got, expected = shown(call_seconds), "a number from 0.001 to 1,000,000"
            raise OptionError("call_seconds", got=got, expected=expected)
        if ask is not None and not callable(ask):
            raise OptionError("ask", got=shown(ask), expected="a function of a call and its tool")
        given, allow = listed("tools", tools), listed("allow", allow)
        made = [tool if isinstance(tool, Tool) else _named(tool_of(tool)) for tool in given]
        own = set() if ask else {tool.name for tool in made if not tool.server}
        self.session: ChatSession = model.session(system=system, **options)
        consent = Consent(ask, {*allow, *own})
        self.loop = ToolLoop(self.session, made, consent, max_steps=steps, call_seconds=most)
        self._worker: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"Agent({self.session.runtime.name!r}, {list(self.loop.tools)})"

    @property
    def options(self) -> GenerationOptions:
        """The options of every step."""
        return self.session.options

    def stream(self, content: str, **overrides: Any) -> Iterator[LoopEvent]:
        """The events of one user turn, as `ToolLoop.send` yields them."""
        if content is None:  # which means to the loop: answer the last message again
            raise MessageError("the message", got="None", expected="a text")
        if "tools" in overrides:
            hint = "Agent(model, tools) is another one; agent.session.messages may be handed on"
            got, expected = shown(overrides["tools"], longest=80), "the tools that the agent has"
            raise OptionError("tools", got=got, expected=expected, hint=hint)
        return self.loop.send(content, **overrides)

    def run(self, content: str, **overrides: Any) -> AgentReply:
        """Run one user turn to its end. Raises as `ChatSession.send`."""
        return _joined(self.stream(content, **overrides))

    async def astream(self, content: str, **overrides: Any) -> AsyncIterator[LoopEvent]:
        """`stream` for asyncio; all turns are computed in one thread of the agent.

        Cancelling the task stops the turn.
        """
        queue: asyncio.Queue[LoopEvent | BaseException | None] = asyncio.Queue()
        events = asyncio.get_running_loop()

        left = threading.Event()

        def work() -> None:
            last: BaseException | None = None
            try:
                turn = self.stream(content, **overrides)  # from here on stop() ends this turn
                if not left.is_set():
                    for event in turn:
                        events.call_soon_threadsafe(queue.put_nowait, event)
            except BaseException as error:
                last = error
            events.call_soon_threadsafe(queue.put_nowait, last)

        self._worker = self._worker or ThreadPoolExecutor(1, "agent")
        running = self._worker.submit(copy_context().run, work)
        ended = False
        try:
            while (event := await queue.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
            ended = True
        finally:
            if not ended:
                left.set()
                if not running.cancel() and not running.done():  # else another turn may run
                    self.loop.stop()

    async def arun(self, content: str, **overrides: Any) -> AgentReply:
        """`run` for asyncio."""
        return _joined([event async for event in self.astream(content, **overrides)])

    def interrupt(self) -> None:
        """End the running call; if none runs, end the turn. From any thread."""
        self.loop.interrupt()


def _joined(events: Any) -> AgentReply:
    answer: list[str] = []
    thinking: list[str] = []
    results: list[ToolResult] = []
    stats = None
    for event in events:
        match event:
            case Thinking(text):
                thinking.append(text)
            case Answer(text):
                answer.append(text)
            case ToolResult():
                results.append(event)
                answer.clear()
            case LoopDone(ending, steps):
                return AgentReply(
                    "".join(answer), "".join(thinking), tuple(results), ending, steps, stats
                )
            case _:
                stats = getattr(event, "stats", stats)
    raise ValueError("the events of a turn end in LoopDone")


def tool_of(function: Callable[..., Any]) -> Tool:
    """A Python function as a tool. Raises `OptionError`.

    A coroutine function runs in its own event loop. The model reads the returned text, other
    values as JSON (what a generator yields as a list), and exceptions as errors.
    """
    description, parameters = schema_of(function)
    parameters = whole_json(copy.deepcopy(parameters))  # a copy: it may hold the function's own

    def run(arguments: dict[str, Any], cancel: Cancel) -> Result:
        try:
            found = function(**converted(function, arguments))
            if inspect.isasyncgen(found):
                found = _collected(found)
            if inspect.isawaitable(found):
                found = _awaited(found, cancel)
            return Result(as_text(found))
        except Exception as error:
            return failure(error)

    return Tool(name_of(function), whole_text(description), parameters, run)


def _named(tool: Tool) -> Tool:
    """`tool`, which a model can call by its name. Raises `OptionError` for a lambda's."""
    if tool.name == "<lambda>":
        hint = "def it; or give it a name: function.__name__ = 'add'"
        raise OptionError("tools", got="a lambda", expected="functions with a name", hint=hint)
    return tool


async def _collected(values: AsyncIterator[Any]) -> list[Any]:
    found: list[Any] = []
    async for one in values:
        found.append(one)
        if len(found) > MOST_ITEMS:
            raise ValueError(f"it yields more than {MOST_ITEMS:,} items")
    return found


def _awaited(work: Awaitable[Any], cancel: Cancel) -> Any:
    async def main() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        cancel.then(lambda: loop.call_soon_threadsafe(task.cancel))
        try:
            return await task
        except asyncio.CancelledError:
            raise TimeoutError("it was cancelled") from None

    return asyncio.run(main())
