"""A sequence as the scheduler sees it, and what it tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from qwen3_mlx.device.out_of_memory import is_out_of_memory, out_of_memory
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.guided_drafts import decoder_of
from qwen3_mlx.engine.prefixes import Prefixes
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs, Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.speculative import Speculating
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.events import FinishReason
from qwen3_mlx.options import AS_COMPUTED

EXPECTED_ANSWER = 4096
"""Tokens of an answer, at most, that memory is set aside for before a sequence begins."""


class Listener(Protocol):
    """Who hears what becomes of a sequence. Called in the scheduler's thread; must not wait."""

    def reading(self, done: int, total: int) -> None:
        """So many tokens of the prompt are in the cache; first what was there already."""

    def said(self, ids: tuple[int, ...], generated: bool, logprobs: Logprobs | None) -> None:
        """One id was generated, or several were put in. May end the sequence."""

    def full(self) -> bool:
        """Whether the listener can take no more for now; the sequence pauses."""

    def ended(self, cache: PromptCache | None) -> None:
        """The sequence has ended as its state says."""

    def failed(self, error: Exception) -> None:
        """The sequence could not go on."""


@dataclass(eq=False, slots=True)
class Task:
    """A sequence to compute: its prompt, its state machine, its draws, and who listens."""

    prompt: list[int]
    sequence: TurnSequence
    sampler: Callable[[], Sampler]
    listener: Listener
    top_logprobs: int | None = None
    prefill_chunk: int | None = None
    lasting: Callable[[], Sequence[int]] | None = None
    """The ids that the next prompt begins with, computed in idle time once this one has ended."""
    own: PromptCache | None = None
    """The conversation's own cache, which holds a beginning of `prompt` and goes back to it."""
    drafting: Callable[[PromptCache], Speculating | None] = lambda _: None
    """What gives its cache drafts, once the prompt is read."""
    cache: PromptCache | None = field(default=None, init=False)
    decoder: Decoder | None = field(default=None, init=False)
    probed: bool = field(default=False, init=False)
    """Whether it waits for what a probe finds, and generates nothing before."""
    touched: float = field(default_factory=time.monotonic, init=False)
    """When it last got something done."""

    @property
    def rows(self) -> int:
        """Tokens that its cache is expected to hold at most."""
        return len(self.prompt) + min(self.sequence.max_tokens, EXPECTED_ANSWER)

    @property
    def to_come(self) -> int:
        """Those of `rows` that have no memory yet, as far as anybody can tell."""
        held = len(self.cache.tokens) if self.cache else 0
        return max(self.rows - held, 0)

    @property
    def left(self) -> int:
        """Tokens of the prompt to be read yet."""
        return len(self.prompt) - (len(self.cache.tokens) if self.cache else 0)

    def begin(self, prefixes: Prefixes, busy: Iterable[PromptCache]) -> None:
        """Get a cache that holds as much of the prompt as any does."""
        self.cache = self.own or prefixes.take(self.prompt, busy)

    def decode(self, logits: mx.array) -> Decoder:
        """Begin to decode: the prompt is read, and ``logits [1, V]`` follow it."""
        assert self.cache is not None
        given = (self.sequence, self.cache, self.sampler(), logits, self.top_logprobs)
        self.decoder = decoder_of(*given, self.drafting(self.cache))
        return self.decoder

    def leave(self) -> None:
        """Decode no more; what outlives the turn is left to any thread."""
        decoder, self.decoder = self.decoder, None
        if decoder is not None and self.own is not None:
            decoder.close()

    def end(self) -> None:
        """Leave the cache to whoever is next, its own in whichever thread; tell the listener."""
        if self.cache is not None:
            self.cache.drop_uncommitted()
            if self.own is not None:
                self.cache.settle()
        try:
            self.listener.ended(self.cache)
        except Exception as error:
            self.listener.failed(error)

    def fail(self, error: Exception) -> None:
        """Tell the listener of `error`; the cache is cleared, for its layers are unknown."""
        foreseen = self.own is not None and isinstance(error, OutOfMemoryError)
        if is_out_of_memory(error):
            packed = self.cache is not None and self.cache.cache_format != AS_COMPUTED
            error = out_of_memory(error, len(self.prompt) - self.left, packed)
        if self.cache is not None and foreseen:  # nothing was computed
            self.cache.drop_uncommitted()
        elif self.cache is not None:
            self.cache.clear()
        self.listener.failed(error)

    def get_ready(self) -> None:
        """Draw its next token, if a grammar had to see the last one first.

        Raises `OutOfMemoryError` if its cache can't grow by a token, or what the grammar raises.
        """
        if self.cache is not None and self.decoder is not None:
            self.cache.make_room(1)
            _ = self.decoder.drawn


@dataclass(slots=True)
class Counts:
    """What a scheduler has done since it began; read by other threads."""

    ended: dict[FinishReason, int] = field(default_factory=dict)
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    """Times that every running sequence got a token."""
    passes: int = 0
    """Forward passes of those steps: as many, where all sequences are computed in one."""
    longest_gap: float = 0.0
    """Seconds between the ends of two steps of the running sequences, at most."""
    faults: int = 0
    """Errors that no sequence could be blamed for: all running ones were ended."""

    def end(self, sequence: TurnSequence) -> FinishReason:
        """Count that it has ended, and say why it has."""
        reason = sequence.finish_reason
        self.ended[reason] = self.ended.get(reason, 0) + 1
        return reason
