"""Turns that a scheduler computes in one batch; any thread may read a turn's events."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.chat.turn_output import TurnOutput, new_sampler
from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.task import Task
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.events import Done, Event, Reply

MOST_EVENTS = 2_000
"""Unread events at which the turn of a slow reader pauses."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Progress of the prefill: `done` of `total` prompt tokens are in the cache.

    The first one of a turn reports the tokens that were cached already.
    """

    done: int
    total: int


def new_scheduler(runtime: Runtime, **settings: Any) -> Scheduler:
    """A scheduler for `runtime`'s network; `settings` are keyword arguments of `Scheduler`."""
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
    """The state of a turn that its own thread began and the scheduler continues."""

    output: TurnOutput
    sequence: TurnSequence
    control: Control
    cache: PromptCache
    decoder: Decoder | None


class Turn(Iterator[Event | Reading]):
    """A turn in the scheduler: yields `Reading`, its events, `Done`; raises the turn's error.

    Iterating blocks; `poll` doesn't, for callers whom `on_ready` notifies of new events.
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
        """With `messages`, the known prefix of the next prompt is prefilled after the turn."""
        self.request, self.control = request, begun.control if begun else Control()
        sequence = begun.sequence if begun else request.sequence(self.control)
        self._output = begun.output if begun else TurnOutput(runtime, request, sequence, deltas)
        self._runtime, self._messages, self._on_ready = runtime, messages, on_ready
        self._events: deque[Event | Reading | Exception] = deque()
        self._changed = threading.Condition()
        self._begun = self._over = False
        self._events_so_far: list[Event] = []
        self._next_prefix: list[int] | None = None
        options = request.options
        self.task = Task(
            request.prompt,
            sequence,
            lambda: new_sampler(runtime, request),
            self,
            options.logprobs,
            options.prefill_chunk,
            None if messages is None else self._stable_prefix,
            begun.cache if begun else None,
            partial(self._output.speculating, lasting=begun is not None),
        )
        if begun and begun.decoder:
            self.task.cache, self.task.decoder = begun.cache, begun.decoder

    @property
    def thinking_tokens(self) -> int:
        """Thinking tokens so far."""
        return self.task.sequence.thinking_tokens

    @property
    def generated_tokens(self) -> int:
        """Generated ids so far, including the end-of-turn token."""
        return self._output.clock.tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were in the cache when the turn began."""
        return self._output.clock.cached

    @property
    def used_tokens(self) -> int:
        """Generated and injected ids so far."""
        return self.task.sequence.used

    @property
    def pending(self) -> bool:
        """Whether `poll` would return an event or raise an error."""
        return bool(self._events)

    @property
    def over(self) -> bool:
        """Whether the turn has ended and all its events were read."""
        return self._over and not self._events

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """``"answer"``: stop thinking and answer now; ``"stop"``: end the turn cleanly."""
        self.control.interrupt(kind)

    def poll(self) -> list[Event | Reading]:
        """The events since the last call, possibly none. Raises the turn's error."""
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
        """End the turn if it is running, and wait until nothing computes into its cache."""
        if not self._over:
            self.interrupt()
            with self._changed:
                self._changed.wait_for(lambda: self._over)

    def reading(self, done: int, total: int) -> None:
        """As `Listener.reading`."""
        if not self._begun and self.task.own is None:
            self._begun, self._output.clock.cached = True, done
        self._publish(Reading(done, total))

    def said(self, ids: tuple[int, ...], generated: bool, logprobs: Logprobs | None) -> None:
        """As `Listener.said`."""
        self._publish(*self._output.take(ids, generated, logprobs))

    def full(self) -> bool:
        """Whether so many events are unread that the turn must pause."""
        return len(self._events) >= MOST_EVENTS

    def ended(self, cache: PromptCache | None) -> None:
        """As `Listener.ended`."""
        rest = self._output.rest()
        self._publish(*rest, self._output.done(cache), over=True)

    def failed(self, error: Exception) -> None:
        """As `Listener.failed`."""
        self._publish(error, over=True)

    def _publish(self, *events: Event | Reading | Exception, over: bool = False) -> None:
        if self._messages is not None:
            self._events_so_far += [e for e in events if not isinstance(e, Reading | Exception)]
        with self._changed:
            self._events.extend(events)
            self._over = self._over or over
            self._changed.notify_all()
        if events:
            self._on_ready()

    def _stable_prefix(self) -> list[int]:
        """The ids with which the next prompt begins if the client continues the conversation."""
        if self._next_prefix is None:
            assert self._messages is not None
            reply = Reply.from_events(self._events_so_far)
            message = {"role": "assistant", "content": reply.answer}
            if reply.thinking:
                message["reasoning_content"] = reply.thinking
            calls = [call.as_message() for call in reply.tool_calls]
            messages = [*self._messages, message | ({"tool_calls": calls} if calls else {})]
            special = self.request.options.special_tokens_in_text
            self._next_prefix = self._runtime.stable_prefix(messages, self.request.tools, special)
        return self._next_prefix


class TurnList:
    """Turns that are interrupted together, from any thread; one may be added meanwhile."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._control = Control()

    def __iter__(self) -> Iterator[Turn]:
        return iter(self._turns)

    def add(self, turn: Turn) -> None:
        """Add a turn, which ends at once if the list has been stopped."""
        self._turns.append(turn)
        if self._control.stopped:
            turn.interrupt()

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """``"answer"``: end the thoughts that run; ``"stop"``: end every turn.

        Raises `ValueError` for another `kind`.
        """
        self._control.interrupt(kind)
        for turn in self._turns:
            if kind == "stop" or turn.thinking_tokens:  # what hasn't begun may still think
                turn.interrupt(kind)


def raise_first(what: str, results: Sequence[object]) -> None:
    """Raise the first `Qwen3Error` among `results`, if any, and name its place in the list."""
    for number, error in enumerate(results):
        if isinstance(error, Qwen3Error):
            error.what = f"{what}[{number}]: {error.what}"
            error.args = (error.what,)  # what repr shows, and a copy is made from
            raise error


def run_all(scheduler: Scheduler, turns: list[Turn]) -> Iterator[tuple[int, Reply | Exception]]:
    """Compute `turns` in this thread; yields (index, reply or error) as each turn ends."""
    delay_exit_after_threads()
    BACKGROUND.stop()
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
