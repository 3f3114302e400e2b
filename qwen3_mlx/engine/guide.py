"""Restricts a turn's draws to the tokens that a grammar allows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol

import mlx.core as mx


class Matcher(Protocol):
    """One answer's position in a grammar, implemented by `text.grammar.Match`."""

    def mask(self) -> bytes:
        """One bit per token that may come next; the first token's bit is the lowest."""

    def take(self, token: int) -> bool:
        """Advance by `token`; False if the grammar doesn't allow it."""

    def forced(self) -> list[int]:
        """The tokens that must come next, up to the last one that is followed by others."""

    def copy(self) -> Matcher:
        """Another matcher at the same position."""

    @property
    def ended(self) -> bool:
        """Whether only the end may follow."""


class Guide:
    """Restricts an answer to a grammar from its first token on; the thought before it is free.

    A thought may not contain the end of the turn, nor any other id of `never` (ids of markers).
    After ``</think>`` the ids of `lead`, a line break or two, may precede the answer.
    """

    def __init__(
        self,
        matcher: Matcher,
        vocab_size: int,
        *,
        thinking: bool = False,
        opener: int | None = None,
        lead: tuple[int, ...] = (),
        never: frozenset[int] = frozenset(),
        least_forced: int | None = 2,
    ) -> None:
        """thinking: the prompt ends inside a thought. opener: the id that may open one.

        least_forced: fewer forced tokens than this are drawn one by one; None: all are drawn.
        """
        self._matcher, self._vocab_size = matcher, vocab_size
        self._thinking, self._opener = thinking, opener
        self._lead = lead
        self._coming: tuple[int, ...] = ()
        self._never, self._least = never, least_forced
        self._free: mx.array | None = None

    def allowed(self) -> mx.array:
        """The tokens that may be drawn next, ``[V]`` bool."""
        if self._thinking:
            if self._free is None:
                self._free = _bits(self._without_never(), self._vocab_size)
            return self._free
        mask = bytearray(self._matcher.mask())
        for token in (self._opener, *self._coming[:1]):
            if token is not None:
                mask[token >> 3] |= 1 << (token & 7)
        return _bits(mask, self._vocab_size)

    def take(self, token: int, thinking: bool) -> None:
        """Advance by `token`; thinking: it belongs to a thought, or opened one."""
        before, self._thinking = self._thinking, thinking
        if thinking:
            self._opener = None
        elif before:  # it was </think>
            self._coming = self._lead
        elif self._coming and token == self._coming[0]:
            self._coming = self._coming[1:]
        else:
            self._coming, self._opener = (), None
            self._matcher.take(token)

    def cut(self) -> None:
        """Injected ids have ended the thought: the answer begins."""
        self._thinking, self._coming, self._opener = False, (), None

    def forced(self, most: int) -> tuple[int, ...]:
        """The tokens, at most `most`, that must come next and are worth a forward pass."""
        if self._least is None or self._thinking or self._coming or self._opener is not None:
            return ()
        ids = tuple(self._matcher.forced()[: max(most, 0)])
        return ids if len(ids) >= self._least else ()

    def copy(self) -> Guide:
        """Another guide at the same position."""
        other = copy(self)
        other._matcher = self._matcher.copy()
        return other

    def follow(self, token: int) -> None:
        """As `take`, without knowing where a thought ends: tokens after its end are free too."""
        self.take(token, self._thinking or token == self._opener)

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` may come next in this order, as far as is known."""
        if self._thinking or self._coming or self._opener is not None:
            return len(tokens)
        match = self._matcher.copy()
        for count, token in enumerate(tokens):
            if match.ended or not match.take(token):
                return count
        return len(tokens)

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, and only the end may follow."""
        return not self._thinking and self._matcher.ended

    def _without_never(self) -> bytearray:
        mask = bytearray(b"\xff" * (-(-self._vocab_size // 32) * 4))
        for token in self._never:
            if token < self._vocab_size:
                mask[token >> 3] &= ~(1 << (token & 7))
        return mask


def _bits(mask: bytearray, size: int) -> mx.array:
    """The first `size` bits of `mask` as bools ``[size]``; lazy."""
    words = mx.array(memoryview(mask).cast("I"))  # type: ignore[arg-type]  # a buffer
    bits = (words[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(-1)[:size].astype(mx.bool_)
