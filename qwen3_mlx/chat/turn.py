"""One turn: messages in, events out."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import mlx.core as mx

from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.chat.said import Said, new_sampler
from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.decode import Decoder, run
from qwen3_mlx.engine.prefill import PromptProgress, prefill, require_numbers
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.events import Event, Speculation
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
    with cache.lock, cache.filling():
        mx.reset_peak_memory()
        said.clock.cached = cache.reuse(request.prompt)
        logits = _prefill(runtime, request, cache, control, on_progress)
        if logits is None:
            sequence.finish_reason = "interrupted"
        else:
            decoder, speculating = _decoder(said, cache, sequence, logits)
            yield from _said(said, decoder, sequence)
            if speculating is not None:
                said.speculation = speculating.payoff.turn
    yield said.done(cache)


def _prefill(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    control: Control,
    on_progress: PromptProgress | None,
) -> mx.array | None:
    """The logits behind the prompt; None if the turn was stopped before."""
    done, total = len(cache.tokens), len(request.prompt)
    asked = request.options.prefill_chunk
    chunk = chunk_size(runtime.config, cache.cache_format, done, total, asked)
    new = request.prompt[done:]
    logits = prefill(runtime.network, new, cache, chunk, on_progress, lambda: control.stopped)
    if logits is None:
        return None
    require_numbers(logits)
    cache.mark()
    return logits


def _decoder(
    said: Said, cache: PromptCache, sequence: TurnSequence, logits: mx.array
) -> tuple[Decoder, Speculating | None]:
    """What decodes the turn, with drafts where the model has them and they can pay."""
    runtime, request = said.runtime, said.request
    sampler, top = new_sampler(runtime, request), request.options.logprobs
    drafts = runtime.drafts
    speculating = None if drafts is None or sequence.guide else drafts.of(cache)
    if speculating is not None:
        given = (runtime.network, cache, sampler, logits, top, speculating)
        room = lambda: sequence.max_tokens - sequence.used  # noqa: E731
        return SpeculativeDecoder(*given, room), speculating
    if drafts is not None:
        reason = "the answer follows a grammar" if sequence.guide else drafts.way[1]
        said.speculation = Speculation(off=reason)
    return Decoder(runtime.network, cache, sampler, logits, top, sequence.guide), None


def _said(said: Said, decoder: Decoder, sequence: TurnSequence) -> Iterator[Event]:
    for ids, generated in run(decoder, sequence):
        yield from said.take(ids, generated, decoder.logprobs)
    yield from said.rest()
