"""Drawing the next token, in the order Qwen's numbers were tuned for.

min_tokens and logit_bias, penalties, a grammar's mask, temperature, then top-k, top-p and min-p on
the tempered distribution: vLLM's order (v1/sample/sampler.py), and transformers' where it has the
option.
(mlx-lm and llama.cpp filter before tempering: below temperature 1 their top_p keeps more tokens.)
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import mlx.core as mx

from qwen3_mlx.engine.token_ids import check_token_ids
from qwen3_mlx.options import Sampling

TIES = 64
"""Candidates kept beyond top_k, so that tokens tied with the k-th stay, as in transformers; of more
ties than these, some are left out."""

GREEDY_BELOW = 1e-30
"""A lower temperature is greedy: dividing logits by it would overflow float32."""

_KEYS = 256  # random keys split at a time: one small kernel for so many tokens


def penalise(
    logits: mx.array,
    sampling: Sampling,
    seen: mx.array | None,
    generated: mx.array | None,
    counts: mx.array | None = None,
) -> mx.array:
    """Apply the penalties to ``logits [B, V]``; returns float32.

    ``seen [B, V]`` bool marks tokens of prompt and output: repetition_penalty divides their
    positive logits and multiplies negative ones (arXiv 1909.05858 §4.1). ``generated [B, V]``
    bool marks tokens of the output, ``counts [B, V]`` float32 says how often each came:
    presence_penalty is subtracted once, frequency_penalty each time (OpenAI's and vLLM's).
    """
    logits = logits.astype(mx.float32)
    if seen is not None and sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        scaled = mx.where(logits > 0, logits / penalty, logits * penalty)
        logits = mx.where(seen, scaled, logits)
    if counts is not None and sampling.frequency_penalty != 0:
        logits = logits - sampling.frequency_penalty * counts
    if generated is not None and sampling.presence_penalty != 0:
        logits = logits - sampling.presence_penalty * generated
    return logits


def candidates(logits: mx.array, sampling: Sampling) -> tuple[mx.array, mx.array | None]:
    """Temper and filter penalised ``logits [B, V]``, at a temperature above 0.

    Returns ``([B, N], [B, N])``: float32 log-weights with filtered ones at -inf, and their token
    ids; ids None means all V in order. Only as many candidates are sorted as top_k asks for.
    """
    scores = logits / sampling.temperature
    size = scores.shape[-1]
    ids = None
    if 0 < sampling.top_k < size:
        kept = min(size, sampling.top_k + TIES)
        ids = mx.argpartition(-scores, kth=kept - 1, axis=-1)[..., :kept]
        scores, ids = _descending(mx.take_along_axis(scores, ids, axis=-1), ids)
        kth = scores[..., sampling.top_k - 1 : sampling.top_k]
        scores = mx.where(scores >= kth, scores, -mx.inf)
    elif sampling.top_p < 1:
        scores, ids = _descending(scores, mx.arange(size, dtype=mx.uint32)[None])
    if sampling.top_p < 1:
        probabilities = mx.softmax(scores, axis=-1)
        before = mx.cumsum(probabilities, axis=-1, inclusive=False)
        scores = mx.where(before < sampling.top_p, scores, -mx.inf)
    if sampling.min_p > 0:
        probabilities = mx.softmax(scores, axis=-1)
        floor = sampling.min_p * probabilities.max(axis=-1, keepdims=True)
        scores = mx.where(probabilities >= floor, scores, -mx.inf)
    return scores, ids


def _descending(scores: mx.array, ids: mx.array) -> tuple[mx.array, mx.array]:
    order = mx.argsort(-scores, axis=-1)
    ids = mx.broadcast_to(ids, scores.shape)
    return mx.take_along_axis(scores, order, axis=-1), mx.take_along_axis(ids, order, axis=-1)


def distribution(
    logits: mx.array,
    sampling: Sampling,
    seen: mx.array | None = None,
    generated: mx.array | None = None,
    counts: mx.array | None = None,
) -> mx.array:
    """The probabilities ``[B, V]`` float32 from which a `Sampler` draws, given ``logits [B, V]``.

    At temperature 0 all of it lies on the largest logit, the lowest id on ties.
    """
    logits = penalise(logits, sampling, seen, generated, counts)
    if sampling.temperature < GREEDY_BELOW:
        best = mx.argmax(logits, axis=-1, keepdims=True)
        return (mx.arange(logits.shape[-1]) == best).astype(mx.float32)
    scores, ids = candidates(logits, sampling)
    probabilities = mx.softmax(scores, axis=-1)
    if ids is None:
        return probabilities
    return mx.put_along_axis(mx.zeros_like(logits), ids, probabilities, axis=-1)


class Logprobs(NamedTuple):
    """How likely a token was, and the likeliest ones; lazy until they are read."""

    token: mx.array
    """``[1]`` float32."""
    top_ids: mx.array
    """``[n]``, the likeliest first."""
    top: mx.array
    """``[n]`` float32."""


class SamplerState(NamedTuple):
    """How far a `Sampler` is: its draws, and what it has seen."""

    draws: int
    observed: int
    seen: mx.array | None
    generated: mx.array | None
    counts: mx.array | None


class Sampler:
    """Draws tokens for one sequence; remembers which were seen if a penalty needs to know.

    The same seed gives the same draws; None takes a fresh one. Draw number n has key number n,
    whatever was drawn and taken back before (`state`, `restore`). `bias` is added to the logits of
    its ids, and none of `eos` is drawn before `min_tokens` are generated. Nothing here waits for
    the device: tokens stay lazy arrays. Raises `OptionError` for an id beyond the vocabulary.
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
        """Draw a token ``[1]`` uint32 from ``logits [1, V]``, one of ``allowed [V]`` bool."""
        logits = self.adjusted(logits)
        if allowed is not None:
            logits = mx.where(allowed, logits, -mx.inf)
        keys = [self.next_key()] if is_random(self.sampling) else []
        return _drawn(logits, self.sampling, keys)

    def adjusted(self, logits: mx.array) -> mx.array:
        """``logits [1, V]`` with bias, least length and penalties, float32, not yet tempered."""
        if self._bias is not None:
            logits = logits.astype(mx.float32) + self._bias
        if self._observed < self._min_tokens:
            logits = logits.astype(mx.float32) + self._without_eos
        return penalise(logits, self.sampling, self._seen, self._generated, self._counts)

    def observe(self, tokens: mx.array) -> None:
        """Count ``tokens [n]`` as generated: those drawn and kept, and those put in their place."""
        self._observed += tokens.size
        for mask in (self._seen, self._generated):
            if mask is not None:
                mask[:, tokens] = True
        if self._counts is not None:
            self._counts = self._counts.at[:, tokens].add(1.0)

    def state(self) -> SamplerState:
        """How far it is now; `restore` takes everything since back, but not what was forbidden."""
        masks = (self._seen, self._generated, self._counts)
        return SamplerState(self._draws, self._observed, *map(_copy, masks))

    def restore(self, state: SamplerState) -> None:
        """Go on from `state`, which is of at most `_KEYS` draws ago."""
        self._draws, self._observed = state.draws, state.observed
        self._seen, self._generated, self._counts = map(_copy, state[2:])

    def settle(self) -> None:
        """Compute what is under way, so that another thread can go on drawing."""
        masks = (self._seen, self._generated, self._counts, self._bias)
        mx.eval(self._key, self._keys, [mask for mask in masks if mask is not None])

    def forbid(self, token: int) -> None:
        """Never draw `token` from now on; an id that no logit belongs to changes nothing."""
        if 0 <= token < self.vocab_size:
            self._add_bias({token: -math.inf})

    def _add_bias(self, bias: Mapping[int, float]) -> None:
        if self._bias is None:
            self._bias = mx.zeros((1, self.vocab_size), mx.float32)
        ids = mx.array(list(bias), mx.uint32)
        self._bias = self._bias.at[:, ids].add(mx.array(list(bias.values()), mx.float32))

    @cached_property
    def _without_eos(self) -> mx.array:
        """What takes the ends out of the draw when it is added ``[V]``."""
        bias = mx.zeros(self.vocab_size, mx.float32)
        known = [token for token in self._eos if 0 <= token < self.vocab_size]
        bias[mx.array(known, mx.uint32)] = -mx.inf
        return bias

    def next_key(self) -> mx.array:
        """The key of the next draw, which is thereby done."""
        if self._draws == self._first_key + len(self._keys):
            self._first_key += max(len(self._keys) - _KEYS, 0)
            self._key, *new = mx.random.split(self._key, _KEYS + 1)
            self._keys = [*self._keys[-_KEYS:], *new]
        self._draws += 1
        return self._keys[self._draws - 1 - self._first_key]


def draw_together(samplers: Sequence[Sampler], logits: Sequence[mx.array]) -> list[mx.array]:
    """What each of `samplers` draws ``[1]`` from its own ``logits [1, V]``, the same as alone.

    Those of equal options are sorted together: eight rows take a GPU little more than one.
    """
    groups: dict[Sampling, list[int]] = {}
    for index, sampler in enumerate(samplers):
        groups.setdefault(sampler.sampling, []).append(index)
    found: dict[int, mx.array] = {}
    for sampling, members in groups.items():
        rows = mx.concatenate([samplers[n].adjusted(logits[n]) for n in members])
        keys = [samplers[n].next_key() for n in members] if is_random(sampling) else []
        found |= zip(members, mx.split(_drawn(rows, sampling, keys), len(members)), strict=True)
    return [found[index] for index in range(len(samplers))]


def is_random(sampling: Sampling) -> bool:
    """Whether draws need random numbers."""
    return sampling.temperature >= GREEDY_BELOW


def _drawn(logits: mx.array, sampling: Sampling, keys: Sequence[mx.array]) -> mx.array:
    """A token of each row ``[B]``, from penalised ``logits [B, V]``, with a random key a row."""
    if not is_random(sampling):
        return mx.argmax(logits, axis=-1)
    scores, ids = candidates(logits, sampling)
    rows = zip(mx.split(scores, len(keys)), keys, strict=True)
    index = mx.concatenate([mx.random.categorical(row, key=key) for row, key in rows])
    if ids is None:
        return index
    return mx.take_along_axis(ids, index[:, None], axis=-1)[:, 0]


def _copy(mask: mx.array | None) -> mx.array | None:
    """The same numbers, which `observe` doesn't write into."""
    return None if mask is None else mx.array(mask)


def logprobs(logits: mx.array, token: mx.array, top: int) -> Logprobs:
    """log softmax of the network's own ``logits [1, V]`` at ``token [1]`` and the `top` likeliest.

    Before any option changes them, as vLLM's ``raw_logprobs`` and OpenAI's are.
    """
    scores = logits[0].astype(mx.float32)
    scores = scores - mx.logsumexp(scores)
    size = min(top, scores.size)
    ids = mx.argpartition(-scores, kth=max(size - 1, 0))[:size]
    ids = ids[mx.argsort(-scores[ids])]
    return Logprobs(scores[token], ids, scores[ids])
