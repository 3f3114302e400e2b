"""Draws a sequence's next token, from its own seed, options and history.

`qwen3_mlx.engine.logit_filters` defines the distribution and the order of the options.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import mlx.core as mx

from qwen3_mlx.engine.logit_filters import drawn, is_random, largest, penalise
from qwen3_mlx.engine.token_ids import check_token_ids
from qwen3_mlx.options import Sampling

_KEYS = 256  # random keys split at once: one small kernel for this many tokens


class Logprobs(NamedTuple):
    """A token's log probability and the likeliest tokens; lazy arrays."""

    token: mx.array
    """``[1]`` float32."""
    top_ids: mx.array
    """``[n]`` ids, the likeliest first."""
    top: mx.array
    """``[n]`` float32."""


class SamplerState(NamedTuple):
    """A `Sampler`'s position: its draws, and the tokens it has observed."""

    draws: int
    observed: int
    seen: mx.array | None
    generated: mx.array | None
    counts: mx.array | None


class Sampler:
    """Draws tokens for one sequence; records observed tokens if a penalty needs them.

    Equal seeds give equal draws; None takes a random seed. Draw number n uses key number n,
    even after draws were taken back (`state`, `restore`). `bias` is added to the logits of its
    ids, and no id of `eos` is drawn before `min_tokens` are generated. Nothing here waits for the
    device: tokens stay lazy arrays. Raises `OptionError` for an id beyond the vocabulary.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        prompt: Sequence[int] = (),
        seed: int | None = None,
        *,
        bias: Mapping[int, float] | None = None,
        min_tokens: int = 0,
        eos: Iterable[int] = (),
    ) -> None:
        self.sampling, self.vocab_size = sampling, vocab_size
        self._key = mx.random.key(secrets.randbits(63) if seed is None else seed)
        self._keys: list[mx.array] = []
        self._first_key = self._draws = 0
        self._seen: mx.array | None = None
        self._generated: mx.array | None = None
        self._counts: mx.array | None = None
        self._bias: mx.array | None = None
        self._min_tokens, self._eos, self._observed = min_tokens, tuple(eos), 0
        check_token_ids([*prompt, *(bias or ())], vocab_size)
        if sampling.repetition_penalty != 1:
            self._seen = mx.zeros((1, vocab_size), mx.bool_)
            self._seen[:, mx.array(list(prompt), mx.uint32)] = True
        if sampling.presence_penalty != 0:
            self._generated = mx.zeros((1, vocab_size), mx.bool_)
        if sampling.frequency_penalty != 0:
            self._counts = mx.zeros((1, vocab_size), mx.float32)
        if bias:
            self._add_bias(bias)

    def draw(self, logits: mx.array, allowed: mx.array | None = None) -> mx.array:
        """Draw a token ``[1]`` uint32 from ``logits [1, V]``, limited to ``allowed [V]`` bool."""
        logits = self.adjusted(logits)
        if allowed is not None:
            logits = mx.where(allowed, logits, -mx.inf)
        keys = [self.next_key()] if is_random(self.sampling) else []
        return drawn(logits, self.sampling, keys)

    def draw_rows(self, rows: mx.array, logits: mx.array) -> tuple[mx.array, list[SamplerState]]:
        """Observe each of ``rows [R]`` and draw behind it, from ``logits [R, V]``.

        Returns the draws ``[R]`` and the state after each, as `observe` and `draw` in turn make
        them. Without a penalty no row depends on those before it, and all share the operations of
        one.
        """
        count, before = len(rows), self._observed
        alone = all(mask is None for mask in (self._seen, self._generated, self._counts))
        early = [before + row < self._min_tokens for row in (1, count)]
        if not alone or early[0] != early[1]:
            return self._draw_in_turn(rows, logits)
        self._observed = before + 1
        adjusted = self.adjusted(logits)
        keys, states = [], []
        for row in range(1, count + 1):
            self._observed = before + row
            keys += [self.next_key()] if is_random(self.sampling) else []
            states.append(self.state())
        return drawn(adjusted, self.sampling, keys), states

    def _draw_in_turn(
        self, rows: mx.array, logits: mx.array
    ) -> tuple[mx.array, list[SamplerState]]:
        tokens, states = [], []
        for index, row in enumerate(mx.split(logits, len(rows))):
            self.observe(rows[index : index + 1])
            tokens.append(self.draw(row))
            states.append(self.state())
        return mx.concatenate(tokens), states

    def adjusted(self, logits: mx.array) -> mx.array:
        """``logits [B, V]`` with bias, min_tokens and penalties, in float32, before temperature."""
        return adjusted_together([self], logits)

    def observe(self, tokens: mx.array) -> None:
        """Count ``tokens [n]`` as generated: drawn tokens that were kept, and injected ones."""
        self._observed += tokens.size
        for mask in (self._seen, self._generated):
            if mask is not None:
                mask[:, tokens] = True
        if self._counts is not None:
            self._counts = self._counts.at[:, tokens].add(1.0)

    def state(self) -> SamplerState:
        """The current position, for `restore`, which doesn't undo `forbid`."""
        masks = (self._seen, self._generated, self._counts)
        return SamplerState(self._draws, self._observed, *map(_copy, masks))

    def restore(self, state: SamplerState) -> None:
        """Return to `state`, which is at most `_KEYS` draws old."""
        self._draws, self._observed = state.draws, state.observed
        self._seen, self._generated, self._counts = map(_copy, state[2:])
        mx.async_eval(self.masks)  # another thread may go on with them

    def settle(self) -> None:
        """Evaluate pending arrays, so that another thread can continue drawing."""
        mx.eval(self._key, self._keys, self.masks)

    @property
    def masks(self) -> list[mx.array]:
        """What `observe` and `forbid` change; evaluated with the next draw."""
        masks = (self._seen, self._generated, self._counts, self._bias)
        return [mask for mask in masks if mask is not None]

    def forbid(self, token: int) -> None:
        """Never draw `token` from now on; an id beyond the logits is ignored."""
        if 0 <= token < self.vocab_size:
            self._add_bias({token: -math.inf})

    def _add_bias(self, bias: Mapping[int, float]) -> None:
        if self._bias is None:
            self._bias = mx.zeros((1, self.vocab_size), mx.float32)
        ids = mx.array(list(bias), mx.uint32)
        self._bias = self._bias.at[:, ids].add(mx.array(list(bias.values()), mx.float32))

    @property
    def kind(self) -> tuple[object, ...]:
        """Samplers of equal kind can draw their rows together."""
        return self.sampling, self._bias is None, self._observed < self._min_tokens

    @cached_property
    def _without_eos(self) -> mx.array:
        """The bias ``[1, V]`` that excludes the `eos` ids from a draw."""
        bias = mx.zeros((1, self.vocab_size), mx.float32)
        known = [token for token in self._eos if 0 <= token < self.vocab_size]
        bias[:, mx.array(known, mx.uint32)] = -mx.inf
        return bias

    def next_key(self) -> mx.array:
        """The key ``[1, 2]`` of the next draw; advances the count of draws."""
        if self._draws == self._first_key + len(self._keys):
            self._first_key += max(len(self._keys) - _KEYS, 0)
            first, *new = mx.split(mx.random.split(self._key, _KEYS + 1), _KEYS + 1)
            self._key = first.reshape(2)
            mx.async_eval(self._key, new)  # another thread may go on with them
            self._keys = [*self._keys[-_KEYS:], *new]
        self._draws += 1
        return self._keys[self._draws - 1 - self._first_key]


def draw_together(
    samplers: Sequence[Sampler], logits: Sequence[mx.array], joint: mx.array | None = None
) -> list[mx.array]:
    """Each sampler's draw ``[1]`` from its own ``logits [1, V]``, the same as if drawn alone.

    Samplers of one kind share the operations of one: eight rows cost little more than one, on
    the host and on a GPU. joint: `logits` as one array ``[B, V]``, if it exists.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, sampler in enumerate(samplers):
        groups.setdefault(sampler.kind, []).append(index)
    found: dict[int, mx.array] = {}
    for members in groups.values():
        own = [samplers[n] for n in members]
        rows = joint if len(groups) == 1 else None
        rows = _joined([logits[n] for n in members]) if rows is None else rows
        sampling = own[0].sampling
        keys = [one.next_key() for one in own] if is_random(sampling) else []
        tokens = drawn(adjusted_together(own, rows), sampling, keys)
        found |= zip(members, mx.split(tokens, len(members)), strict=True)
    return [found[index] for index in range(len(samplers))]


def adjusted_together(samplers: Sequence[Sampler], logits: mx.array) -> mx.array:
    """As `Sampler.adjusted`, for ``logits [B, V]`` of B samplers of one kind."""
    first = samplers[0]
    if first._bias is not None:
        logits = logits.astype(mx.float32) + _joined([one._bias for one in samplers])
    if first._observed < first._min_tokens:
        logits = logits.astype(mx.float32) + _joined([one._without_eos for one in samplers])
    seen, generated, counts = (
        None if masks[0] is None else _joined(masks)
        for masks in zip(
            *((one._seen, one._generated, one._counts) for one in samplers), strict=True
        )
    )
    return penalise(logits, first.sampling, seen, generated, counts)


def _joined(rows: Sequence[Any]) -> mx.array:
    """Concatenate arrays ``[1, V]``, one per row, to ``[B, V]``."""
    return mx.concatenate([*rows])


def _copy(mask: mx.array | None) -> mx.array | None:
    """A copy into which `observe` doesn't write."""
    return None if mask is None else mx.array(mask)


def logprobs(logits: mx.array, token: mx.array, top: int) -> Logprobs:
    """Log softmax of the network's ``logits [1, V]`` at ``token [1]``, and the `top` likeliest.

    The logits are those before any option changes them, as in vLLM's ``raw_logprobs`` and
    OpenAI's.
    """
    scores = logits[0].astype(mx.float32)
    scores = scores - mx.logsumexp(scores)
    size = min(top, scores.size)
    ids = largest(scores[None], max(size, 1))[0, :size]
    ids = ids[mx.argsort(-scores[ids])]
    return Logprobs(scores[token], ids, scores[ids])
