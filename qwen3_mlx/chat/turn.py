"""One turn: messages in, events out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.device.process_exit import delay_exit_after_threads
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.budget import Control, Interrupt, Markers, TurnCounts, run
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import Progress, prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.errors import ContextError, OptionError
from qwen3_mlx.events import Done, Event, Stats
from qwen3_mlx.fit.chunk_size import chunk_size
from qwen3_mlx.options import (
    DEFAULT_MAX_TOKENS,
    GenerationOptions,
    Sampling,
    ThinkingBudget,
)
from qwen3_mlx.text import Mode, Splitter, resolve_mode

Message = Mapping[str, Any]
"""As chat templates take them: role, content; an assistant's reasoning_content, tool_calls."""


@dataclass(frozen=True)
class Request:
    """A turn, made ready: the prompt's ids and everything decided before the first forward."""

    prompt: list[int]
    mode: Mode
    sampling: Sampling
    markers: Markers
    budget: ThinkingBudget
    max_tokens: int
    seed: int | None
    prefill_chunk: int | None


def prepare(
    runtime: Runtime,
    messages: Sequence[Message],
    options: GenerationOptions,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Request:
    """Render, encode and check a turn.

    Raises `OptionError`, `TemplateError`, or `ContextError` for a prompt that leaves no room.
    """
    if not messages:
        raise OptionError("no messages", hint="a conversation has at least one user message")
    limit = _remaining(runtime, messages, options.thinking_budget)
    mode = resolve_mode(runtime.family, messages, options.thinking, limit)
    text = runtime.template.render(messages, tools=tools, thinking=mode.template_flag)
    prompt = runtime.tokenizer.encode(text)
    room = runtime.config.context - len(prompt)
    if room <= 0:
        raise ContextError(
            "the prompt is too long",
            got=f"{len(prompt)} tokens",
            expected=f"fewer than {runtime.config.context}, the context of {runtime.name}",
            hint="shorten it, start a new conversation, or ask for more with --context",
        )
    max_tokens = min(options.max_tokens or DEFAULT_MAX_TOKENS[runtime.family], room)
    stop_ids = tuple(runtime.tokenizer.encode(options.stop_text))
    budget = ThinkingBudget(limit if mode.thinking else None, stop_ids)
    budget.check(max_tokens)
    return Request(
        prompt=prompt,
        mode=mode,
        sampling=runtime.sampling(options, mode.thinking),
        markers=runtime.markers(tools=bool(tools)),
        budget=budget,
        max_tokens=max_tokens,
        seed=options.seed,
        prefill_chunk=options.prefill_chunk,
    )


def _remaining(runtime: Runtime, messages: Sequence[Message], budget: int | None) -> int | None:
    """What is left of the budget of this *user* turn, after the thoughts of its tool steps."""
    if not budget:
        return budget
    spent = 0
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        spent += len(runtime.tokenizer.encode(message.get("reasoning_content") or ""))
    # 0 is the hard switch, which a model that always thinks does not have.
    return max(budget - spent, 0 if runtime.family == "hybrid" else 1)


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
    return Generation(_events(runtime, request, cache, control, on_progress), control)


def _events(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    control: Control,
    on_progress: Progress | None,
) -> Iterator[Event]:
    delay_exit_after_threads()
    clock = _Clock(len(request.prompt))
    turn = TurnCounts(request.mode.thinking, inside=request.mode.starts_inside)
    BACKGROUND.stop()
    with cache.lock:
        yield from _computed(runtime, request, cache, control, on_progress, clock, turn)
    yield Done(turn.finish_reason, clock.stats(turn, cache))


def _computed(
    runtime: Runtime,
    request: Request,
    cache: PromptCache,
    control: Control,
    on_progress: Progress | None,
    clock: _Clock,
    turn: TurnCounts,
) -> Iterator[Event]:
    """What the model says, while the cache is this turn's."""
    mx.reset_peak_memory()
    clock.cached = done = cache.reuse(request.prompt)
    with cache.filling():
        asked = request.prefill_chunk
        chunk = chunk_size(runtime.config, cache.cache_format, done, len(request.prompt), asked)
        logits = prefill(
            runtime.network,
            request.prompt[done:],
            cache,
            chunk,
            on_progress,
            lambda: control.stopped,
        )
        if logits is None:
            turn.finish_reason = "interrupted"
        else:
            cache.mark()
            vocabulary = runtime.config.vocab_size
            sampler = Sampler(request.sampling, vocabulary, request.prompt, request.seed)
            decoder = Decoder(runtime.network, cache, sampler, logits)
            splitter = Splitter(runtime.tokenizer, request.mode)
            for ids, generated in run(
                decoder, turn, request.markers, request.budget, request.max_tokens, control
            ):
                clock.tick(len(ids) if generated else 0)
                yield from splitter.push(ids)
            yield from splitter.flush()


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

    def stats(self, turn: TurnCounts, cache: PromptCache) -> Stats:
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
