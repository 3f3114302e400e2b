"""One turn: messages in, events out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import mlx.core as mx

from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.control import Control, Interrupt
from qwen3_mlx.engine.decode import Decoder, run
from qwen3_mlx.engine.prefill import Progress, prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs, Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.events import Done, Event, Stats, TokenLogprob
from qwen3_mlx.fit.chunk_size import chunk_size
from qwen3_mlx.text import Splitter, StopSequences


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
    on_progress: Progress | None = None,
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
    on_progress: Progress | None = None,
) -> Generator[Event]:
    """Compute the turn in `cache`, and yield what the model says, then `Done`."""
    delay_exit_after_threads()
    clock = _Clock(len(request.prompt))
    sequence = request.sequence(control)
    options = request.options
    stops = None if options.stop is None else StopSequences(options.stop, options.stop_in)
    BACKGROUND.stop()
    with cache.lock, cache.filling():
        mx.reset_peak_memory()
        clock.cached = cache.reuse(request.prompt)
        logits = _prefill(runtime, request, cache, control, on_progress)
        if logits is None:
            sequence.finish_reason = "interrupted"
        else:
            decoder = _decoder(runtime, request, cache, logits)
            yield from _said(runtime, request, decoder, sequence, clock, stops)
    stopped_by = None if stops is None else stops.stopped_by
    yield Done(sequence.finish_reason, clock.stats(sequence, cache), stopped_by)


def _prefill(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    control: Control,
    on_progress: Progress | None,
) -> mx.array | None:
    """The logits behind the prompt; None if the turn was stopped before."""
    done, total = len(cache.tokens), len(request.prompt)
    asked = request.options.prefill_chunk
    chunk = chunk_size(runtime.config, cache.cache_format, done, total, asked)
    new = request.prompt[done:]
    logits = prefill(runtime.network, new, cache, chunk, on_progress, lambda: control.stopped)
    if logits is not None:
        cache.mark()
    return logits


def _decoder(runtime: Runtime, request: Request, cache: PromptCache, logits: mx.array) -> Decoder:
    options = request.options
    sampler = Sampler(
        request.sampling,
        runtime.config.vocab_size,
        request.prompt,
        options.seed,
        bias=options.logit_bias,
        min_tokens=options.min_tokens or 0,
        eos=request.markers.eos,
    )
    return Decoder(runtime.network, cache, sampler, logits, options.logprobs)


def _said(
    runtime: Runtime,
    request: Request,
    decoder: Decoder,
    sequence: TurnSequence,
    clock: _Clock,
    stops: StopSequences | None,
) -> Iterator[Event]:
    splitter = Splitter(runtime.tokenizer, request.mode, request.tools)
    if request.continues:
        splitter.resume()
    least = request.options.min_tokens or 0
    for ids, generated in run(decoder, sequence):
        clock.tick(len(ids) if generated else 0)
        if generated and decoder.logprobs is not None:
            yield _token_logprob(runtime, ids[0], decoder.logprobs)
        events = splitter.push(ids)
        if stops is not None:
            if generated and clock.tokens > least:
                events, _ = stops.push_events(events)
            else:  # what is put in, or comes too early, ends nothing
                events = [*stops.flush_events(), *events]
            if stops.hit:
                sequence.end("stop")
        yield from events
    rest = splitter.flush(truncated=sequence.finish_reason != "stop")
    if stops is not None:
        rest = [*stops.push_events(rest)[0], *stops.flush_events()]
        if stops.hit:
            sequence.finish_reason = "stop"
    yield from rest


def _token_logprob(runtime: Runtime, token: int, logprobs: Logprobs) -> TokenLogprob:
    bytes_of = runtime.tokenizer.id_to_bytes
    pairs = zip(_numbers(logprobs.top_ids), _numbers(logprobs.top), strict=True)
    top = tuple(TokenLogprob(int(id), bytes_of(int(id)), value) for id, value in pairs)
    return TokenLogprob(token, bytes_of(token), _numbers(logprobs.token)[0], top)


def _numbers(values: mx.array) -> list[float]:
    return values.tolist()  # type: ignore[return-value]  # nested lists, to mypy


class _Clock:
    """The timings of a turn."""

    def __init__(self, prompt: int) -> None:
        self.prompt, self.cached = prompt, 0
        self.began = time.perf_counter()
        self.first = self.last = 0.0
        self.tokens = 0

    def tick(self, tokens: int) -> None:
        """Some tokens came."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.tokens += tokens

    def stats(self, turn: TurnSequence, cache: PromptCache) -> Stats:
        """The counts and rates; the first token belongs to the prefill."""
        ttft = max(self.first - self.began, 0.0)
        decoding = self.last - self.first
        return Stats(
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            thinking_tokens=turn.thinking_tokens,
            answer_tokens=turn.answer_tokens,
            thinking_cut=turn.cut,
            ttft_s=ttft,
            prefill_tps=(self.prompt - self.cached) / ttft if ttft else 0.0,
            decode_tps=(self.tokens - 1) / decoding if decoding else 0.0,
            peak_memory_bytes=mx.get_peak_memory(),
            kv_bytes=cache.nbytes,
            kv_kind=cache.kind,
        )
