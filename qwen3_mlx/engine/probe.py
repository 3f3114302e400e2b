"""A probe: what the model would answer now, found out without leaving a trace.

It computes in a branch of the cache and draws nothing: neither the look-ahead token, nor the
random keys, nor the penalties' counts know of it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import mlx.core as mx

from qwen3_mlx.engine.decision import Ask
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.short_answer import ShortAnswer, is_complete, short_answer
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.nn.transformer import Qwen3Network

LONGEST = 24
"""Tokens of a short answer at most; what hasn't ended by then is none."""


class Ahead(NamedTuple):
    """The cut that a probe has computed already."""

    cache: PromptCache
    """It ends in the cut's ids."""
    logits: mx.array
    """``[1, V]``, behind them."""


class Found(NamedTuple):
    """What a probe found."""

    answer: ShortAnswer | None
    """None: no short answer came, or a tool call would."""
    ahead: Ahead | None
    """None: nothing was computed, for want of memory."""
    tokens: int
    """How many it computed."""


def probe(network: Qwen3Network, cache: PromptCache, ask: Ask, markers: Markers) -> Found:
    """The model's answer behind `ask`'s ids, drawn greedily; `cache` stays as it is."""
    steps = passes(network, cache, ask, markers)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found


def passes(
    network: Qwen3Network, cache: PromptCache, ask: Ask, markers: Markers
) -> Generator[None, None, Found]:
    """As `probe`, with a stop behind each pass but the last; until its end nobody uses `cache`."""
    branch = cache.branch()
    try:
        logits = prefill(network, ask.ids, branch, chunk=len(ask.ids))
        assert logits is not None
        ahead = Ahead(branch.branch(), logits)
        if ask.tool is not None and mx.argmax(logits).item() == ask.tool:
            return Found(None, ahead, len(ask.ids))
        yield
        answer, tokens = yield from _answer(network, branch, ask, markers)
    except OutOfMemoryError:
        return Found(None, None, len(branch.tokens) - len(cache.tokens))
    return Found(answer, ahead, len(ask.ids) + tokens)


def _answer(
    network: Qwen3Network, branch: PromptCache, ask: Ask, markers: Markers
) -> Generator[None, None, tuple[ShortAnswer | None, int]]:
    """What comes in the slot, and how many tokens were computed for it."""
    assert markers.bytes_of is not None
    logits = prefill(network, ask.slot_ids, branch, chunk=len(ask.slot_ids))
    assert logits is not None
    forward = branch.step or network
    pieces, probabilities = list[bytes](), list[float]()
    while True:
        token, probability = _likeliest(logits)
        if token in (ask.tool, markers.open, markers.close):
            return None, len(ask.slot_ids) + len(pieces)
        if token in markers.eos:
            break
        pieces.append(markers.bytes_of(token))
        probabilities.append(probability)
        if is_complete(b"".join(pieces).decode("utf-8", "replace")):
            break
        if len(pieces) == LONGEST:
            return None, len(ask.slot_ids) + len(pieces)
        yield
        branch.make_room(1)
        logits = forward(mx.array([[token]], mx.uint32), branch.layers)[:, -1]
    return short_answer(pieces, probabilities), len(ask.slot_ids) + len(pieces)


def _likeliest(logits: mx.array) -> tuple[int, float]:
    """The token that greedy decoding takes, and its probability."""
    scores = logits[0].astype(mx.float32)
    token = mx.argmax(scores)
    probability = mx.exp(scores[token] - mx.logsumexp(scores))
    mx.eval(token, probability)
    return int(token), float(probability)
