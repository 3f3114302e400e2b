"""One turn: messages in, events out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import mlx.core as mx

from qwen3_mlx.chat.company import Place
from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.chat.said import Said, new_sampler
from qwen3_mlx.chat.turns import Begun, Reading, Turn
from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.decode import Decoder, run
from qwen3_mlx.engine.guided_drafts import decoder_of
from qwen3_mlx.engine.prefill import PromptProgress, prefill, require_numbers
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.events import Done, Event
from qwen3_mlx.fit.chunk_size import chunk_size


class Generation(Iterator[Event]):
    """The events of one turn, as they come.

    `interrupt` may be called from another thread or a signal handler, at any time.
    """

    def __init__(self, events: Iterator[Event], control: Control) -> None:
        self._events, self.control = events, control

    def __next__(self) -> Event:
        return next(self._events)

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """``"answer"``: stop thinking and answer now; ``"stop"``: end the turn cleanly."""
        self.control.interrupt(kind)

    def close(self) -> None:
        """Abandon the turn; what was generated so far stays in its cache."""
        close = getattr(self._events, "close", None)
        if close is not None:
            close()


def start(
    runtime: Runtime,
    request: Request,
    cache: PromptCache | None = None,
    on_progress: PromptProgress | None = None,
) -> Generation:
    """Begin the turn; nothing is computed before the first event is asked for.

    `cache` is kept for the next turn: it ends up holding the prompt and all that followed.
    """
    control = Control()
    cache = cache or runtime.new_cache()
    return Generation(turn_events(runtime, request, cache, control, on_progress), control)


def turn_events(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    control: Control,
    on_progress: PromptProgress | None = None,
) -> Generator[Event]:
    """Compute the turn in `cache`, and yield what the model says, then `Done`."""
    delay_exit_after_threads()
    sequence = request.sequence(control)
    said = Said(runtime, request, sequence)
    BACKGROUND.stop()
    joins = runtime.network.model.lead is None  # a group of machines has one order of passes
    done: Done | None = None
    with runtime.company.place(joins) as place, cache.lock:
        mx.reset_peak_memory()
        said.clock.cached = cache.reuse(request.prompt)
        decoder = yield from _alone(said, cache, sequence, place, on_progress)
        if place.left:
            turn = _among_others(said, cache, sequence, decoder)
            done = yield from _followed(turn, said.clock.cached, on_progress)
    yield done or said.done(cache)


def _alone(
    said: Said,
    cache: PromptCache,
    sequence: TurnSequence,
    place: Place,
    on_progress: PromptProgress | None,
) -> Generator[Event, None, Decoder | None]:
    """Compute the turn in this thread until it ends or leaves; returns what decodes it by then."""
    control = sequence.control
    if place.leave():
        return None
    with cache.filling():
        stopped = lambda: control.stopped or place.leave()  # noqa: E731
        logits = _prefill(said.runtime, said.request, cache, stopped, on_progress)
        if logits is None:
            if not place.left:
                sequence.finish_reason = "interrupted"
            return None
        sampler, top = new_sampler(said.runtime, said.request), said.request.options.logprobs
        speculating = said.speculating(cache, lasting=True)
        decoder = decoder_of(sequence, cache, sampler, logits, top, speculating)
        try:
            yield from _said(said, decoder, sequence, place)
            if place.left:
                decoder.hand_over()
        finally:
            decoder.close()
    return decoder


def _among_others(
    said: Said, cache: PromptCache, sequence: TurnSequence, decoder: Decoder | None
) -> Turn:
    """The turn as it goes on beside those of other threads."""
    runtime, control = said.runtime, sequence.control
    cache.settle()
    turn = Turn(runtime, said.request, begun=Begun(said, sequence, control, cache, decoder))
    parts = (runtime.network, runtime.config, runtime.cache_format, runtime.helper)
    scheduler = runtime.company.scheduler(*parts)
    scheduler.submit(turn.task)
    return turn


def _followed(
    turn: Turn, cached: int, on_progress: PromptProgress | None
) -> Generator[Event, None, Done | None]:
    """Pass on what is said of `turn`, which has ended when this has; returns its last event."""
    done: Done | None = None
    try:
        for event in turn:
            if isinstance(event, Done):
                done = event
            elif not isinstance(event, Reading):
                yield event
            elif on_progress is not None and event.done > cached:
                on_progress(event.done - cached, event.total - cached)
    finally:
        turn.end()
    return done


def _prefill(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    stopped: Callable[[], bool],
    on_progress: PromptProgress | None,
) -> mx.array | None:
    """The logits behind the prompt; None if the turn was stopped before."""
    done, total = len(cache.tokens), len(request.prompt)
    asked = request.options.prefill_chunk
    chunk = chunk_size(runtime.config, cache.cache_format, done, total, asked)
    new = request.prompt[done:]
    logits = prefill(runtime.network, new, cache, chunk, on_progress, stopped)
    if logits is None:
        return None
    require_numbers(logits)
    cache.mark()
    return logits


def _said(said: Said, decoder: Decoder, sequence: TurnSequence, place: Place) -> Iterator[Event]:
    for ids, generated in run(decoder, sequence, place.leave):
        yield from said.take(ids, generated, decoder.logprobs)
    if not place.left:
        yield from said.rest()
