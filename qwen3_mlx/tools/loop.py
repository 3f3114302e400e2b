"""The tool loop: the model requests calls, the user allows them, the model reads the results.

A user turn has several steps, one per run of the model. The thinking budget spans all of them, and
each step prefills only the new messages, because the session's cache holds the rest.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Literal

from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.chat.turn import Generation
from qwen3_mlx.errors import ContextError, OptionError
from qwen3_mlx.events import Answer, Done, ToolCall
from qwen3_mlx.text.messages import MessageLike
from qwen3_mlx.tools.consent import Consent, No, Once
from qwen3_mlx.tools.events import Ending, LoopDone, LoopEvent, ToolResult, ToolRun
from qwen3_mlx.tools.result_text import (
    DECLINED,
    NOT_RUN,
    RESULT_TOKENS,
    SAME_CALL,
    WHY,
    for_model,
)
from qwen3_mlx.tools.surrogates import whole_text
from qwen3_mlx.tools.tool import CALL_SECONDS, Cancel, Result, Tool, failure

MAX_STEPS = 20
"""The most runs of the model in one user turn."""
CALL_MARKS = ("<tool_call>", "<function=")


class ToolLoop:
    """Runs user turns of `session` with `tools` on offer; `consent` decides which calls run.

    One turn at a time. `interrupt` may be called from any thread or a signal handler.
    """

    def __init__(
        self,
        session: ChatSession,
        tools: Sequence[Tool],
        consent: Consent,
        *,
        max_steps: int = MAX_STEPS,
        call_seconds: float = CALL_SECONDS,
        result_tokens: int = RESULT_TOKENS,
    ) -> None:
        self.session, self.consent = session, consent
        self.max_steps, self.call_seconds = max_steps, call_seconds
        self.result_tokens = result_tokens
        self.offer(tools)
        self._generation: Generation | None = None
        self._cancel: Cancel | None = None
        self._stopped = False

    def offer(self, tools: Sequence[Tool]) -> None:
        """Offer `tools` from the next step on. Raises `OptionError` if two have the same name."""
        counted = Counter(tool.name for tool in tools)
        if twice := [name for name, count in counted.items() if count > 1]:
            raise OptionError("tools", got=f"two named {twice[0]!r}", expected="a name each")
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}

    def send(
        self, content: str | MessageLike | Sequence[MessageLike], **options: Any
    ) -> Iterator[LoopEvent]:
        """One user turn. Yields the model's events of each step, `ToolRun` and `ToolResult`.

        The last event is `LoopDone`. Raises as `ChatSession.send`; the messages until then stay in
        the session, each call with its result.
        """
        return self._begin(options).events(content)

    def retry(self, **options: Any) -> Iterator[LoopEvent]:
        """Answer the last user message again; yields as `send`. Raises as `ChatSession.retry`."""
        return self._begin(options).events(None)

    def _begin(self, options: dict[str, Any]) -> _Turn:
        if self._cancel is not None:  # another turn's message would come before the call's result
            hint = "interrupt() ends it; a tool that needs a model takes another Agent"
            raise OptionError("a call of this agent is still running", hint=hint)
        self._stopped = False
        return _Turn(self, options)

    def interrupt(self, kind: Literal["answer", "stop"] = "stop") -> None:
        """End the running call, and tell the model so; if none runs, the thinking or the turn."""
        cancel = self._cancel
        if cancel is not None and not cancel.asked:
            cancel.ask()
            return
        self._stopped = self._stopped or kind == "stop" or cancel is not None
        if self._stopped and (begun := self._cancel) is not None:
            begun.ask()  # a call that has begun in the meantime
        if self._generation is not None:
            self._generation.interrupt(kind)

    def stop(self) -> None:
        """End the turn and the running call; from any thread."""
        self._stopped = True
        if (cancel := self._cancel) is not None:
            cancel.ask()
        if (generation := self._generation) is not None:
            generation.interrupt("stop")

    def run(self, tool: Tool, arguments: dict[str, Any]) -> Result:
        """Run a call in a thread; returns a failed result after `call_seconds` or `interrupt`."""
        self._cancel = cancel = Cancel()
        found: list[Result] = []
        ended = threading.Event()
        cancel.then(ended.set)
        if self._stopped:  # stopped after the model requested the call
            self._cancel = None
            return Result("The user ended the turn before it ran.", failed=True)

        def call() -> None:
            try:
                result = tool.run(arguments, cancel)
            except BaseException as error:  # sys.exit() too: nobody else hears of it in a thread
                result = failure(error)
            if not (cancel.asked and result.failed):  # else it fails because the user ended it
                found.append(result)
            ended.set()

        here, name = copy_context(), f"tool {tool.name}"  # a tool reads the caller's ContextVars
        threading.Thread(target=here.run, args=(call,), name=name, daemon=True).start()
        in_time = ended.wait(self.call_seconds)
        self._cancel = None
        if found:
            return found[0]
        if in_time:
            return Result("The user ended this call before it gave a result.", failed=True)
        cancel.ask()
        return Result(f"It gave no result within {self.call_seconds:g} seconds.", failed=True)

    def room(self) -> int:
        """A quarter of the context left, from 32 to `result_tokens`: most tokens of a result."""
        left = self.session.runtime.config.context - len(self.session.cache.tokens)
        return max(min(self.result_tokens, left // 4), 32)


class _Turn:
    """The state of one user turn."""

    def __init__(self, loop: ToolLoop, options: dict[str, Any]) -> None:
        self.loop, self.options = loop, options
        self.steps = 0
        self.seen: Counter[str] = Counter()
        self.told = False
        """Whether the model has been told that its call can't be parsed."""
        self.calls: list[ToolCall] = []
        """The calls of the latest step with calls."""
        self.results: dict[str, dict[str, Any]] = {}
        """The results of `calls` so far, as messages by the calls' ids."""

    def events(self, content: Any) -> Iterator[LoopEvent]:
        try:
            yield from self._events(content)
        finally:
            self._close_calls()

    def _close_calls(self) -> None:
        """Append a result message for each call that has none when the turn breaks off."""
        messages = self.loop.session.messages
        asked = messages[-1].get("tool_calls") if messages else None
        if not self.calls or not asked or asked[0].get("id") != self.calls[0].id:
            return
        for one in asked:
            call = ToolCall(one["function"]["name"], id=one["id"])
            left = ToolResult(call, f"{NOT_RUN}: the turn was broken off.", True)
            messages.append(self.results.get(call.id) or left.as_message())

    def _events(self, content: Any) -> Iterator[LoopEvent]:
        ending: Ending | None = None
        while ending is None:
            calls, answer, done = yield from self._step(content)
            ending = self._ending(calls, done)
            content = []
            for call in calls:
                result = yield from self._result(call, ending)
                content.append(result.as_message())
                if self.loop._stopped:
                    ending = ending or "interrupted"
            if not calls and ending is None:
                content = self._unreadable(answer)
                ending = None if content else "answered"
            if ending is not None:
                self.loop.session.messages.extend(content)
        yield LoopDone(ending, self.steps)

    def _step(self, content: Any) -> Any:
        """Run the model once, yielding its events; returns its calls, its answer and `Done`.

        `content` holds the new messages; None answers the last user message again.
        """
        self.steps += 1
        offered = [tool.as_offer() for tool in self.loop.tools.values()]
        session = self.loop.session
        try:
            if content is None:
                generation = session.retry(tools=offered, **self.options)
            else:
                generation = session.send(content, tools=offered, **self.options)
        except ContextError as error:
            raise self._too_long(error, offered) from None
        self.loop._generation = generation
        if self.loop._stopped:  # before there was anything to interrupt
            generation.interrupt()
        calls: list[ToolCall] = []
        answer: list[str] = []
        done: Done | None = None
        try:
            for event in generation:
                match event:
                    case ToolCall():
                        calls.append(event)
                        self.calls, self.results = calls, {}
                    case Answer(text):
                        answer.append(text)
                    case Done():
                        done = event
                yield event
        finally:
            self.loop._generation = None
            generation.close()
        assert done is not None
        return calls, "".join(answer), done

    def _too_long(self, error: ContextError, offered: list[dict[str, Any]]) -> ContextError:
        """`error` with the number of prompt tokens that the tools take."""
        if not offered:
            return error
        tokens = len(self.loop.session.runtime.tokenizer.encode(json.dumps(offered)))
        got = f"{error.got}, some {tokens:,} of them for {len(offered)} tools"
        hint = f'offer fewer ("includeTools": [names] beside a server in the file), or {error.hint}'
        return ContextError(error.what, got=got, expected=error.expected, hint=hint)

    def _ending(self, calls: list[ToolCall], done: Done) -> Ending | None:
        if done.finish_reason == "interrupted" or self.loop._stopped:
            return "interrupted"
        if done.finish_reason == "length" and not calls:
            return "length"
        for call in calls:
            self.seen[_key(call)] += 1
        if any(self.seen[_key(call)] >= SAME_CALL for call in calls):
            return "repeated"
        return "steps" if calls and self.steps >= self.loop.max_steps else None

    def _result(self, call: ToolCall, ending: Ending | None) -> Any:
        """Run `call` if it is allowed; yields `ToolRun` and `ToolResult`, returns the latter."""
        tool = self.loop.tools.get(call.name)
        if ending is not None:
            result = ToolResult(call, f"{NOT_RUN}: {WHY[ending]}.", True, tool)
        elif tool is None:
            names = ", ".join(self.loop.tools)
            result = ToolResult(call, f"Error: no tool {call.name!r}. There are: {names}.", True)
        else:
            result = yield from self._asked(call, tool)
        self.results[call.id] = result.as_message()
        yield result
        return result

    def _asked(self, call: ToolCall, tool: Tool) -> Any:
        decision = self.loop.consent.decide(call, tool)
        if isinstance(decision, No):
            why = f": {decision.reason}" if decision.reason else ""
            return ToolResult(call, whole_text(f"{DECLINED}{why}."), True, tool)
        arguments = call.arguments
        if isinstance(decision, Once) and decision.arguments is not None:
            arguments = decision.arguments
        yield ToolRun(ToolCall(call.name, arguments, call.id), tool)
        began = time.monotonic()
        found = self.loop.run(tool, arguments)
        seconds = time.monotonic() - began
        encode = self.loop.session.runtime.tokenizer.encode
        text = for_model(tool, found, encode, self.loop.room())
        if arguments is not call.arguments:
            text = f"(The user had it run with {json.dumps(arguments)}.)\n{text}"
        return ToolResult(call, text, found.failed, tool, seconds)

    def _unreadable(self, answer: str) -> list[dict[str, Any]]:
        """The message that tells the model, once per turn, that its call can't be parsed."""
        if self.told or not any(mark in answer for mark in CALL_MARKS):
            return []
        self.told = True
        text = "Error: this tool call can't be read. Call the tool again, in the right form."
        if not self.loop.tools:
            text = "Error: there are no tools any more. Answer without them."
        return [{"role": "tool", "content": text}]


def _key(call: ToolCall) -> str:
    return json.dumps([call.name, call.arguments], sort_keys=True, ensure_ascii=False)
