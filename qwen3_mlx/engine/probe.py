"""A probe finds out what the model would answer now, without changing the turn.

It computes in a branch of the cache and samples nothing: the look-ahead token, the random keys and
the penalties' counts stay as they are.
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
"""Most tokens of a short answer; a longer one counts as none."""


class Ahead(NamedTuple):
    """The state after a cut's ids, which a probe has already computed."""

    cache: PromptCache
    """A cache that ends with the cut's ids."""
    logits: mx.array
    """``[1, V]``, the logits after them."""


class Found(NamedTuple):
    """A probe's result."""

    answer: ShortAnswer | None
    """None: the model gives no short answer, or would call a tool."""
    ahead: Ahead | None
    """None: memory was too short to compute it."""
    tokens: int
    """The number of computed tokens."""


def probe(network: Qwen3Network, cache: PromptCache, ask: Ask, markers: Markers) -> Found:
    """The model's greedy answer after the ids of `ask`; `cache` stays as it is."""
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
    """As `probe`, yielding between passes; `cache` must not be used until it ends."""
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
    """The answer in the slot, and the number of tokens computed for it."""
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
    """The token that greedy decoding selects, and its probability."""
    scores = logits[0].astype(mx.float32)
    token = mx.argmax(scores)
    probability = mx.exp(scores[token] - mx.logsumexp(scores))
    mx.eval(token, probability)
    return int(token), float(probability)
