"""Turns of one model that run together: each is read by whoever asked for it, in any thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.chat.said import Said, new_sampler
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.task import Task
from qwen3_mlx.events import Done, Event, Reply
from qwen3_mlx.text import stable_prefix

MOST_EVENTS = 2_000
"""Events that wait for a slow reader before its turn pauses."""


@dataclass(frozen=True, slots=True)
class Reading:
    """So many tokens of the prompt are in the cache; the first time, those that were there."""

    done: int
    total: int


def new_scheduler(runtime: Runtime, **settings: Any) -> Scheduler:
    """A scheduler of `runtime`'s network; `settings` are those of `Scheduler`."""
    return Scheduler(
        runtime.network,
        runtime.config,
        runtime.new_cache,
        cache_format=runtime.cache_format,
        helper=runtime.helper,
        **settings,
    )


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that was begun elsewhere, in its conversation's own cache, and goes on here."""

    said: Said
    sequence: TurnSequence
    control: Control
    cache: PromptCache
    decoder: Decoder | None


class Turn(Iterator[Event | Reading]):
    """A turn under way: `Reading`, then its events, then `Done`; raises what it failed of.

    Iterating waits; `poll` doesn't, for who is told by `on_ready` that there is something.
    """

    def __init__(
        self,
        runtime: Runtime,
        request: Request,
        *,
        deltas: bool = False,
        messages: list[dict[str, Any]] | None = None,
        on_ready: Callable[[], object] = lambda: None,
        begun: Begun | None = None,
    ) -> None:
        """With `messages`, what the next prompt begins with is computed once the turn is over."""
        self.request, self.control = request, begun.control if begun else Control()
        sequence = begun.sequence if begun else request.sequence(self.control)
        self._said = begun.said if begun else Said(runtime, request, sequence, deltas)
        self._runtime, self._messages, self._on_ready = runtime, messages, on_ready
        self._events: deque[Event | Reading | Exception] = deque()
        self._changed = threading.Condition()
        self._begun = self._over = False
        self._heard: list[Event] = []
        self._next_prefix: list[int] | None = None
        options = request.options
        self.task = Task(
            request.prompt,
            sequence,
            lambda: new_sampler(runtime, request),
            self,
            options.logprobs,
            options.prefill_chunk,
            None if messages is None else self._lasting,
            begun.cache if begun else None,
            partial(self._said.speculating, lasting=begun is not None),
        )
        if begun and begun.decoder:
            self.task.cache, self.task.decoder = begun.cache, begun.decoder

    @property
    def thinking_tokens(self) -> int:
        """How many tokens of thinking there are so far."""
        return self.task.sequence.thinking_tokens

    @property
    def generated_tokens(self) -> int:
        """How many ids were generated so far, the end of the turn included."""
        return self._said.clock.tokens

    @property
    def cached_tokens(self) -> int:
        """Those of the prompt that were in the cache when the turn began."""
        return self._said.clock.cached

    @property
    def used_tokens(self) -> int:
        """Generated and injected ids."""
        return self.task.sequence.used

    @property
    def pending(self) -> bool:
        """Whether `poll` has an event to hand out, or an error to raise."""
        return bool(self._events)

    @property
    def over(self) -> bool:
        """Whether everything was handed out, the end or the error included."""
        return self._over and not self._events

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """``"answer"``: stop thinking and answer now; ``"stop"``: end the turn cleanly."""
        self.control.interrupt(kind)

    def poll(self) -> list[Event | Reading]:
        """What has come since the last time, perhaps nothing. Raises what the turn failed of."""
        events: list[Event | Reading] = []
        while self._events:
            if isinstance(self._events[0], Exception) and events:
                return events
            event = self._events.popleft()
            if isinstance(event, Exception):
                raise event
            events.append(event)
        return events

    def __next__(self) -> Event | Reading:
        with self._changed:
            while not self._events:
                if self._over:
                    raise StopIteration
                self._changed.wait()
        event = self._events.popleft()
        if isinstance(event, Exception):
            raise event
        return event

    def end(self) -> None:
        """Have it end, if it hasn't, and wait until nothing computes into its cache any more."""
        if not self._over:
            self.interrupt()
            with self._changed:
                self._changed.wait_for(lambda: self._over)

    def reading(self, done: int, total: int) -> None:
        """As `Listener.reading`."""
        if not self._begun and self.task.own is None:
            self._begun, self._said.clock.cached = True, done
        self._tell(Reading(done, total))

    def said(self, ids: tuple[int, ...], generated: bool, logprobs: Logprobs | None) -> None:
        """As `Listener.said`."""
        self._tell(*self._said.take(ids, generated, logprobs))

    def full(self) -> bool:
        """Whether so many events wait that the turn must pause."""
        return len(self._events) >= MOST_EVENTS

    def ended(self, cache: PromptCache | None) -> None:
        """As `Listener.ended`."""
        rest = self._said.rest()
        self._tell(*rest, self._said.done(cache), over=True)

    def failed(self, error: Exception) -> None:
        """As `Listener.failed`."""
        self._tell(error, over=True)

    def _tell(self, *events: Event | Reading | Exception, over: bool = False) -> None:
        if self._messages is not None:
            self._heard += [e for e in events if not isinstance(e, Reading | Exception)]
        with self._changed:
            self._events.extend(events)
            self._over = self._over or over
            self._changed.notify_all()
        if events:
            self._on_ready()

    def _lasting(self) -> list[int]:
        """What the next prompt of this conversation begins with, if its client keeps to it."""
        if self._next_prefix is None:
            assert self._messages is not None
            reply = Reply.from_events(self._heard)
            message = {"role": "assistant", "content": reply.answer}
            if reply.thinking:
                message["reasoning_content"] = reply.thinking
            calls = [call.as_message() for call in reply.tool_calls]
            known = [*self._messages, message | ({"tool_calls": calls} if calls else {})]
            found = stable_prefix(
                self._runtime.template,
                self._runtime.tokenizer,
                known,
                self.request.tools or None,
                special_tokens_in_text=self.request.options.special_tokens_in_text,
            )
            self._next_prefix = found[: self._runtime.config.context]
        return self._next_prefix


def run_all(scheduler: Scheduler, turns: list[Turn]) -> Iterator[tuple[int, Reply | Exception]]:
    """Compute `turns` in this thread; yields their numbers and replies, as they end."""
    coming, open_turns = deque(enumerate(turns)), dict[int, Turn]()
    replies: dict[int, list[Event]] = {}
    while coming or open_turns:
        while coming and len(open_turns) < scheduler.parallel:
            number, turn = coming.popleft()
            open_turns[number], replies[number] = turn, []
            scheduler.submit(turn.task)
        scheduler.round()
        for number, turn in list(open_turns.items()):
            try:
                events = turn.poll()
            except Exception as error:
                del open_turns[number]
                yield number, error
                continue
            replies[number] += [event for event in events if not isinstance(event, Reading)]
            if replies[number] and isinstance(replies[number][-1], Done):
                del open_turns[number]
                yield number, Reply.from_events(replies.pop(number))
