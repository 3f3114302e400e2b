"""A sequence in the scheduler, its listener, and the scheduler's counters."""

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
"""Most tokens of an answer for which memory is reserved before a sequence begins."""


class Listener(Protocol):
    """Receives a sequence's events, in the scheduler's thread; its methods must not block."""

    def reading(self, done: int, total: int) -> None:
        """`done` of the prompt's `total` tokens are in the cache; called first for reused ones."""

    def said(self, ids: tuple[int, ...], generated: bool, logprobs: Logprobs | None) -> None:
        """One id was generated, or several were injected. May end the sequence."""

    def full(self) -> bool:
        """Whether the listener can take no more for now; the sequence then pauses."""

    def ended(self, cache: PromptCache | None) -> None:
        """The sequence has ended; its `finish_reason` says why."""

    def failed(self, error: Exception) -> None:
        """The sequence failed with `error`."""


@dataclass(eq=False, slots=True)
class Task:
    """A sequence to compute: its prompt, state machine, sampler and listener."""

    prompt: list[int]
    sequence: TurnSequence
    sampler: Callable[[], Sampler]
    listener: Listener
    top_logprobs: int | None = None
    prefill_chunk: int | None = None
    lasting: Callable[[], Sequence[int]] | None = None
    """Returns the beginning of the next prompt, which is computed in idle time after this turn."""
    own: PromptCache | None = None
    """The conversation's own cache, which holds a beginning of `prompt`; None: a shared one."""
    drafting: Callable[[PromptCache], Speculating | None] = lambda _: None
    """Returns the drafting of its cache, called when the prompt is read; None: no drafts."""
    cache: PromptCache | None = field(default=None, init=False)
    decoder: Decoder | None = field(default=None, init=False)
    probed: bool = field(default=False, init=False)
    """Whether it waits for a probe's result; until then it generates nothing."""
    touched: float = field(default_factory=time.monotonic, init=False)
    """The time of its last progress."""

    @property
    def rows(self) -> int:
        """Tokens that its cache is expected to hold at most."""
        return len(self.prompt) + min(self.sequence.max_tokens, EXPECTED_ANSWER)

    @property
    def to_come(self) -> int:
        """The part of `rows` that has no memory yet, as far as is known."""
        held = len(self.cache.tokens) if self.cache else 0
        return max(self.rows - held, 0)

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.prompt) - (len(self.cache.tokens) if self.cache else 0)

    def begin(self, prefixes: Prefixes, busy: Iterable[PromptCache]) -> None:
        """Choose the cache that holds most of the prompt, or the task's own."""
        self.cache = self.own or prefixes.take(self.prompt, busy)

    def decode(self, logits: mx.array) -> Decoder:
        """Start decoding after the prompt; ``logits [1, V]`` are those of its last token."""
        assert self.cache is not None
        given = (self.sequence, self.cache, self.sampler(), logits, self.top_logprobs)
        self.decoder = decoder_of(*given, self.drafting(self.cache))
        return self.decoder

    def leave(self) -> None:
        """Stop decoding; hand what outlives the turn over to any thread."""
        decoder, self.decoder = self.decoder, None
        if decoder is not None and self.own is not None:
            decoder.close()

    def end(self) -> None:
        """Release the cache (its own to any thread), and tell the listener."""
        if self.cache is not None:
            self.cache.drop_uncommitted()
            if self.own is not None:
                self.cache.settle()
        try:
            self.listener.ended(self.cache)
        except Exception as error:
            self.listener.failed(error)

    def fail(self, error: Exception) -> None:
        """Tell the listener of `error`; clears the cache, because its layers are unknown."""
        foreseen = self.own is not None and isinstance(error, OutOfMemoryError)
        if is_out_of_memory(error):
            packed = self.cache is not None and self.cache.cache_format != AS_COMPUTED
            error = out_of_memory(error, len(self.prompt) - self.left, packed)
        if self.cache is not None and foreseen:  # `require` refused: nothing was computed
            self.cache.drop_uncommitted()
        elif self.cache is not None:
            self.cache.clear()
        self.listener.failed(error)

    def get_ready(self) -> None:
        """Draw the next token, if a grammar had to see the last one first.

        Raises `OutOfMemoryError` if the cache can't grow by a token, or the grammar's error.
        """
        if self.cache is not None and self.decoder is not None:
            self.cache.make_room(1)
            _ = self.decoder.drawn


@dataclass(slots=True)
class Counts:
    """A scheduler's counters since its start; other threads read them."""

    ended: dict[FinishReason, int] = field(default_factory=dict)
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    """Steps: in each, every running sequence got a token."""
    passes: int = 0
    """Forward passes of those steps; equal to `steps` if one pass computes all sequences."""
    longest_gap: float = 0.0
    """The longest time between the ends of two consecutive steps, in seconds."""
    faults: int = 0
    """Errors that belonged to no single sequence: all running ones were ended."""

    def end(self, sequence: TurnSequence) -> FinishReason:
        """Count the end of `sequence`, and return its reason."""
        reason = sequence.finish_reason
        self.ended[reason] = self.ended.get(reason, 0) + 1
        return reason
