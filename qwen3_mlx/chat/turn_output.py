"""Converts a turn's token ids to events; applies stop sequences and measures the timings."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property

import mlx.core as mx

from qwen3_mlx.chat.logprob_parts import LogprobParts
from qwen3_mlx.chat.request import Request
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.engine.payoff import Payoff
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs, Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.speculative import Speculating
from qwen3_mlx.events import Done, Event, Speculation, Stats, TokenLogprob
from qwen3_mlx.text import Splitter, StopSequences


class TurnOutput:
    """Converts the ids of a turn to events, and ends `sequence` at a stop sequence.

    With `deltas`, a growing tool call yields `ToolCallDelta` events.
    """

    def __init__(
        self, runtime: Runtime, request: Request, sequence: TurnSequence, deltas: bool = False
    ) -> None:
        self.runtime, self.request, self._sequence = runtime, request, sequence
        self._deltas = deltas
        self._payoff: Payoff | None = None
        self._no_drafts = ""
        self.clock = Clock(len(request.prompt))
        options = request.options
        self._least = options.min_tokens or 0
        stop = options.stop
        self._stops = None if stop is None else StopSequences(stop, options.stop_in)

    def speculating(self, cache: PromptCache, *, lasting: bool) -> Speculating | None:
        """The drafting state for a turn in `cache`; None if the model doesn't draft here.

        lasting: the conversation keeps `cache`, and with it the statistics of its drafts.
        """
        drafts = self.runtime.drafts
        if drafts is None:
            return None
        found = drafts.of(cache) if lasting else drafts.new()
        if found is None:
            self._no_drafts = drafts.way[1]
        else:
            self._payoff = found.payoff
        return found

    @cached_property
    def _splitter(self) -> Splitter:
        request = self.request
        splitter = Splitter(self.runtime.tokenizer, request.mode, request.callable, self._deltas)
        if request.continues:
            splitter.resume()
        return splitter

    @cached_property
    def _logprob_parts(self) -> LogprobParts | None:
        wanted = self.request.options.logprobs is not None
        return LogprobParts(self.runtime.tokenizer) if wanted else None

    def take(self, ids: tuple[int, ...], generated: bool, logprobs: Logprobs | None) -> list[Event]:
        """The events that `ids` complete; call it before the sequence takes the ids."""
        self.clock.tick(len(ids) if generated else 0)
        parts = self._logprob_parts
        if parts is not None:
            one = None
            if generated and logprobs is not None:
                one = _token_logprob(self.runtime, ids[0], logprobs)
            parts.add(ids, one)
        events, stops = self._splitter.push(ids), self._stops
        if stops is not None:
            if generated and self.clock.tokens > self._least:
                events, _ = stops.push_events(events)
            else:  # injected tokens and those before min_tokens don't stop the turn
                events = [*stops.flush_events(), *events]
            if stops.hit:
                self._sequence.end("stop")
        return events if parts is None else parts.placed(events)

    def rest(self) -> list[Event]:
        """The events that were held back, once the sequence has ended."""
        stops = self._stops
        rest = self._splitter.flush(truncated=self._sequence.finish_reason != "stop")
        if stops is not None:
            rest = [*stops.push_events(rest)[0], *stops.flush_events()]
            if stops.hit:
                self._sequence.finish_reason = "stop"
        parts = self._logprob_parts
        return rest if parts is None else [*parts.placed(rest), *parts.rest()]

    def done(self, cache: PromptCache | None) -> Done:
        """The `Done` event with the turn's statistics."""
        stopped_by = None if self._stops is None else self._stops.stopped_by
        speculation = Speculation(off=self._no_drafts) if self._no_drafts else None
        speculation = speculation if self._payoff is None else self._payoff.turn
        stats = replace(self.clock.stats(self._sequence, cache), speculation=speculation)
        return Done(self._sequence.finish_reason, stats, stopped_by)


def new_sampler(runtime: Runtime, request: Request) -> Sampler:
    """The sampler of a turn."""
    options = request.options
    return Sampler(
        request.sampling,
        runtime.config.vocab_size,
        request.prompt,
        options.seed,
        bias=options.logit_bias,
        min_tokens=options.min_tokens or 0,
        eos=request.markers.eos,
    )


def _token_logprob(runtime: Runtime, token: int, logprobs: Logprobs) -> TokenLogprob:
    bytes_of = runtime.tokenizer.id_to_bytes
    pairs = zip(_numbers(logprobs.top_ids), _numbers(logprobs.top), strict=True)
    top = tuple(TokenLogprob(int(id), bytes_of(int(id)), value) for id, value in pairs)
    return TokenLogprob(token, bytes_of(token), _numbers(logprobs.token)[0], top)


def _numbers(values: mx.array) -> list[float]:
    return values.tolist()  # type: ignore[return-value]  # mypy expects nested lists


class Clock:
    """Times of a turn, in seconds of `time.perf_counter`, and its token counts."""

    def __init__(self, prompt: int) -> None:
        self.prompt, self.cached = prompt, 0
        self.began = time.perf_counter()
        self.first = self.last = 0.0
        self.tokens = 0

    def tick(self, tokens: int) -> None:
        """Note the arrival of `tokens` generated tokens."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.tokens += tokens

    def stats(self, turn: TurnSequence, cache: PromptCache | None) -> Stats:
        """The turn's statistics; the time to the first token counts as prefill."""
        ttft = max(self.first - self.began, 0.0)
        decoding, probing = self.last - self.first, turn.probing
        return Stats(
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            thinking_tokens=turn.thinking_tokens,
            answer_tokens=turn.answer_tokens,
            thinking_cut=turn.cut,
            probes=probing.probes if probing else 0,
            probe_tokens=probing.tokens if probing else 0,
            probe_seconds=probing.seconds if probing else 0.0,
            ttft_s=ttft,
            prefill_tps=(self.prompt - self.cached) / ttft if ttft else 0.0,
            decode_tps=(self.tokens - 1) / decoding if decoding else 0.0,
            peak_memory_bytes=mx.get_peak_memory(),
            kv_bytes=cache.nbytes if cache else 0,
            kv_kind=cache.kind if cache else "",
        )
