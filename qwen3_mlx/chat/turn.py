"""One turn: messages in, events out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator

import mlx.core as mx

from qwen3_mlx.chat.concurrent_turns import TurnSlot
from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.chat.turn_output import TurnOutput, new_sampler
from qwen3_mlx.chat.turns import Begun, Reading, Turn
from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.decode import Decoder, run
from qwen3_mlx.engine.guided_drafts import decoder_of
from qwen3_mlx.engine.prefill import PromptProgress, prefill, require_numbers
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.errors import BackendError, OptionError, shown
from qwen3_mlx.events import Done, Event
from qwen3_mlx.fit.chunk_size import chunk_size
from qwen3_mlx.options.callback import callback
from qwen3_mlx.options.plain_words import is_word


def check_interrupt(kind: object) -> None:
    """Raise `OptionError` unless `kind` is an `Interrupt`."""
    if not is_word(kind, "answer", "stop"):
        raise OptionError("interrupt", got=shown(kind), expected="'answer' or 'stop'")


class Generation(Iterator[Event]):
    """Iterates over the events of one turn as they are computed.

    It may be read on in another thread than it was begun in (`BackendError` if several machines run
    the model), by one at a time. `interrupt` is safe to call from another thread or a signal
    handler at any time.
    """

    def __init__(self, events: Iterator[Event], control: Control) -> None:
        self._events, self.control = events, control

    def __next__(self) -> Event:
        about_to_compute()  # the process may have been forked since the turn began
        return next(self._events)

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """``"answer"``: stop thinking and answer now; ``"stop"``: end the turn cleanly.

        Raises `OptionError` for another `kind`.
        """
        check_interrupt(kind)
        self.control.interrupt(kind)

    def close(self) -> None:
        """Abandon the turn; its cache keeps the tokens computed so far."""
        close = getattr(self._events, "close", None)
        if close is not None:
            close()


def start(
    runtime: Runtime,
    request: Request,
    cache: PromptCache | None = None,
    on_progress: PromptProgress | None = None,
) -> Generation:
    """Begin the turn; computation starts when the first event is requested.

    cache: holds the prompt and the generated tokens afterwards, for the next turn.
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
    """Compute the turn in `cache`; yield its events, the last of them `Done`.

    Raises `OptionError` at once, before the first event, for what is no function to call.
    """
    return _events(runtime, request, cache, control, callback("on_progress", on_progress))


def _events(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    control: Control,
    on_progress: PromptProgress,
) -> Generator[Event]:
    delay_exit_after_threads()
    sequence = request.sequence(control)
    output = TurnOutput(runtime, request, sequence)
    BACKGROUND.stop()
    joins = runtime.network.model.lead is None  # a group of machines runs one pass at a time
    done: Done | None = None
    with runtime.concurrent_turns.place(joins) as place, cache.lock:
        mx.reset_peak_memory()
        output.clock.cached = cache.reuse(request.prompt)
        decoder = yield from _compute_alone(output, cache, sequence, place, on_progress)
        if place.left:
            turn = _submit(output, cache, sequence, decoder)
            done = yield from _follow(turn, output.clock.cached, on_progress)
    yield done or output.done(cache)


def _compute_alone(
    output: TurnOutput,
    cache: PromptCache,
    sequence: TurnSequence,
    place: TurnSlot,
    on_progress: PromptProgress,
) -> Generator[Event, None, Decoder | None]:
    """Compute the turn in this thread until it ends or moves to the scheduler.

    Returns its decoder, which the scheduler continues; None if there is none yet.
    """
    control = sequence.control
    if place.leave():
        return None
    with cache.filling():
        stopped = lambda: control.stopped or place.leave()  # noqa: E731
        logits = _prefill(output.runtime, output.request, cache, stopped, on_progress)
        if logits is None:
            if not place.left:
                sequence.finish_reason = "interrupted"
            return None
        sampler, top = new_sampler(output.runtime, output.request), output.request.options.logprobs
        speculating = output.speculating(cache, lasting=True)
        decoder = decoder_of(sequence, cache, sampler, logits, top, speculating)
        try:
            yield from _output_events(output, decoder, sequence, place)
            if place.left:
                decoder.hand_over()
        finally:
            decoder.close()
    return decoder


def _submit(
    output: TurnOutput, cache: PromptCache, sequence: TurnSequence, decoder: Decoder | None
) -> Turn:
    """Submit the turn to the scheduler, which continues it beside those of other threads."""
    runtime, control = output.runtime, sequence.control
    cache.settle()
    turn = Turn(runtime, output.request, begun=Begun(output, sequence, control, cache, decoder))
    parts = (runtime.network, runtime.config, runtime.cache_format, runtime.helper)
    scheduler = runtime.concurrent_turns.scheduler(*parts)
    scheduler.submit(turn.task)
    return turn


def _follow(
    turn: Turn, cached: int, on_progress: PromptProgress
) -> Generator[Event, None, Done | None]:
    """Pass the events of `turn` on and end it when the caller stops; returns its `Done`."""
    done: Done | None = None
    try:
        for event in turn:
            if isinstance(event, Done):
                done = event
            elif not isinstance(event, Reading):
                yield event
            elif event.done > cached:
                on_progress(event.done - cached, event.total - cached)
    finally:
        turn.end()
    return done


def _prefill(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    stopped: Callable[[], bool],
    on_progress: PromptProgress,
) -> mx.array | None:
    """The logits [1, V] after the prompt's last token; None if the turn was stopped before."""
    done, total = len(cache.tokens), len(request.prompt)
    wanted_chunk = request.options.prefill_chunk
    chunk = chunk_size(runtime.config, cache.cache_format, done, total, wanted_chunk)
    new = request.prompt[done:]
    logits = prefill(runtime.network, new, cache, chunk, on_progress, stopped)
    if logits is None:
        return None
    require_numbers(logits)
    cache.mark()
    return logits


def _output_events(
    output: TurnOutput, decoder: Decoder, sequence: TurnSequence, place: TurnSlot
) -> Iterator[Event]:
    thread = _this_thread()
    for ids, generated in run(decoder, sequence, place.leave):
        yield from output.take(ids, generated, decoder.logprobs)
        # MLX's arrays belong to the thread that made them; the scheduler serves any reader.
        if _this_thread() is not thread and not place.move():
            raise BackendError(
                "a group's stream can't be read on in another thread than it was begun in",
                hint="read it whole in one thread, and pass its events on through a queue",
            )
    if not place.left:
        yield from output.rest()


_marks = threading.local()


def _this_thread() -> object:
    """An object of this thread's own: a new thread may have an ended one's identifier."""
    if not hasattr(_marks, "mark"):
        _marks.mark = object()
    return _marks.mark
