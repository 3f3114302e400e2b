"""What may be drawn in a turn whose answer follows a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol

import mlx.core as mx


class Matcher(Protocol):
    """One answer on its way through a grammar; `text.grammar.Match` is one."""

    def mask(self) -> bytes:
        """A bit for each token that may come next, the first token's bit the lowest."""

    def take(self, token: int) -> bool:
        """Go on by `token`; False if it may not come."""

    def forced(self) -> list[int]:
        """The tokens that have to come next, as far as more come behind them."""

    def copy(self) -> Matcher:
        """Another answer that has come as far."""

    @property
    def ended(self) -> bool:
        """Whether nothing may come but the end."""


class Guide:
    """Holds an answer to a grammar from its first token on, and leaves the thought before it free.

    A thought may not end the turn, nor hold any other of `never` (ids of markers). Behind
    ``</think>`` the ids of `lead`, a line break or two, may come before the answer.
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
        """`thinking`: the prompt ends inside a thought; `opener`: the id that may open one.

        Fewer forced tokens than `least_forced` are drawn one by one; None draws all.
        """
        self._matcher, self._vocab_size = matcher, vocab_size
        self._thinking, self._opener = thinking, opener
        self._lead = lead
        self._coming: tuple[int, ...] = ()
        self._never, self._least = never, least_forced
        self._free: mx.array | None = None

    def allowed(self) -> mx.array:
        """Which tokens may be drawn next, ``[V]`` bool."""
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
        """Go on by `token`; `thinking`: it belongs to a thought, or opened one."""
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
        """The thought was ended by what was put in: the answer begins."""
        self._thinking, self._coming, self._opener = False, (), None

    def forced(self, most: int) -> tuple[int, ...]:
        """The tokens that have to come next and are worth a forward pass of their own."""
        if self._least is None or self._thinking or self._coming or self._opener is not None:
            return ()
        ids = tuple(self._matcher.forced()[: max(most, 0)])
        return ids if len(ids) >= self._least else ()

    def copy(self) -> Guide:
        """Another one that has come as far."""
        other = copy(self)
        other._matcher = self._matcher.copy()
        return other

    def follow(self, token: int) -> None:
        """As `take`, by who doesn't know where a thought ends: behind its end too it is free."""
        self.take(token, self._thinking or token == self._opener)

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` may come next, one behind the other, as far as that is known."""
        if self._thinking or self._coming or self._opener is not None:
            return len(tokens)
        match = self._matcher.copy()
        for count, token in enumerate(tokens):
            if match.ended or not match.take(token):
                return count
        return len(tokens)

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, and nothing may come but the end."""
        return not self._thinking and self._matcher.ended

    def _without_never(self) -> bytearray:
        mask = bytearray(b"\xff" * (-(-self._vocab_size // 32) * 4))
        for token in self._never:
            if token < self._vocab_size:
                mask[token >> 3] &= ~(1 << (token & 7))
        return mask


def _bits(mask: bytearray, size: int) -> mx.array:
    """The first `size` bits of `mask` as a bool each; lazy."""
    words = mx.array(memoryview(mask).cast("I"))  # type: ignore[arg-type]  # a buffer
    bits = (words[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(-1)[:size].astype(mx.bool_)
