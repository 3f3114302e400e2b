"""The distribution of a draw: penalties, temperature, filters, and the noise that selects.

The order is the one that Qwen's numbers were tuned for: min_tokens and logit_bias, penalties, a
grammar's mask, temperature, then top-k, top-p and min-p on the tempered distribution. vLLM has this
order (v1/sample/sampler.py), and transformers where it has the option. (mlx-lm and llama.cpp filter
before tempering: below temperature 1 their top_p keeps more tokens.)
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.options import Sampling

TIES = 64
"""Candidates kept beyond top_k, so that tokens tied with the k-th stay, as in transformers. Ties
beyond this number are dropped."""

BLOCK = 64
"""Scores per block of `largest`. For Qwen3's vocabulary on a CPU 32, 64 and 128 take the same."""

GREEDY_BELOW = 1e-30
"""Lower temperatures are greedy: dividing logits by them would overflow float32."""


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
    bool marks tokens of the output, ``counts [B, V]`` float32 counts them: presence_penalty is
    subtracted once, frequency_penalty once per occurrence (as OpenAI and vLLM do).
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
    ids; ids None means all V in order. Only as many candidates are sorted as top_k needs, and only
    these are tempered, which keeps their order.
    """
    size = logits.shape[-1]
    if 0 < sampling.top_k < size:
        ids = largest(logits, min(size, sampling.top_k + TIES))
        scores = mx.take_along_axis(logits, ids, axis=-1) / sampling.temperature
        scores, ids = _descending(scores, ids)
        kth = scores[..., sampling.top_k - 1 : sampling.top_k]
        scores = mx.where(scores >= kth, scores, -mx.inf)
    elif sampling.top_p < 1:
        ids = mx.arange(size, dtype=mx.uint32)[None]
        scores, ids = _descending(logits / sampling.temperature, ids)
    else:
        scores, ids = logits / sampling.temperature, None
    if sampling.top_p < 1:
        probabilities = mx.softmax(scores, axis=-1)
        before = mx.cumsum(probabilities, axis=-1, inclusive=False)
        scores = mx.where(before < sampling.top_p, scores, -mx.inf)
    if sampling.min_p > 0:
        probabilities = mx.softmax(scores, axis=-1)
        floor = sampling.min_p * probabilities.max(axis=-1, keepdims=True)
        scores = mx.where(probabilities >= floor, scores, -mx.inf)
    return scores, ids


def largest(scores: mx.array, count: int) -> mx.array:
    """The ids ``[B, count]`` uint32 of the largest of ``scores [B, V]``, in no particular order.

    Of scores equal to the smallest of these, any may be left out. The largest `count` lie in the
    `count` blocks with the largest maxima, so most scores are read once and never sorted: MLX's
    argpartition takes 2.4 ms for Qwen3's vocabulary on a CPU, and sorts everything on a GPU.
    """
    rows, size = scores.shape
    if size % BLOCK or size < 4 * BLOCK * count:
        return mx.argpartition(-scores, kth=count - 1, axis=-1)[:, :count]
    blocks = scores.reshape(rows, size // BLOCK, BLOCK)
    best = mx.argpartition(-blocks.max(axis=-1), kth=count - 1, axis=-1)[:, :count, None]
    near = mx.take_along_axis(blocks, best, axis=1).reshape(rows, count * BLOCK)
    ids = (best * BLOCK + mx.arange(BLOCK, dtype=mx.uint32)).reshape(rows, count * BLOCK)
    index = mx.argpartition(-near, kth=count - 1, axis=-1)[:, :count]
    return mx.take_along_axis(ids, index, axis=-1)


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

    At temperature 0 the largest logit has probability 1; of ties, the lowest id.
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


def is_random(sampling: Sampling) -> bool:
    """Whether draws need random numbers: the temperature isn't greedy."""
    return sampling.temperature >= GREEDY_BELOW


def drawn(logits: mx.array, sampling: Sampling, keys: Sequence[mx.array]) -> mx.array:
    """One token per row, ``[B]`` uint32, from penalised ``logits [B, V]``.

    keys: ``[1, 2]`` per row; none if nothing is random. The index of the largest log-weight plus
    Gumbel noise is a draw by the weights; filtered tokens, at -inf, are never drawn.
    (`mx.random.categorical` takes one key, so each row would need its own call: 33 operations,
    266 for eight rows.)
    """
    if not is_random(sampling):
        return mx.argmax(logits, axis=-1)
    scores, ids = candidates(logits, sampling)
    index = mx.argmax(scores + gumbel(keys, scores.shape[-1]), axis=-1)
    if ids is None:
        return index
    return mx.take_along_axis(ids, index[:, None], axis=-1)[:, 0]


def gumbel(keys: Sequence[mx.array], size: int) -> mx.array:
    """Gumbel noise ``[B, size]`` from B keys ``[1, 2]``; each row depends on its own key alone."""
    if len(keys) == 1:
        return mx.random.gumbel((1, size), key=keys[0].reshape(2))
    rows = mx.vmap(lambda key: mx.random.gumbel((size,), key=key))
    return rows(mx.concatenate([*keys]))
