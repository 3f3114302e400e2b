"""Generates one token after another, with the next step always in progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx

from qwen3_mlx.engine.decision import Ask, Decision, End, Inject
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.probe import Ahead, probe
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Logprobs, Sampler, draw_together, logprobs
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.token_ids import check_token_ids
from qwen3_mlx.nn.transformer import Qwen3Network


class Decoder:
    """Generates one sequence: step t+1 starts before token t is read.

    When `step` returns token t, the cache holds it and the logits after it are being computed.
    Without a guide token t+1 is drawn too, but not yet fed to the network. So a cut needs no
    trimming: the look-ahead token is dropped, and the cache is exactly as if generation had stopped
    at t. With a `guide`, the next `step` draws t+1, once the guide knows t; the guide works out the
    allowed tokens while the device computes. With `top_logprobs`, `logprobs` belongs to the token
    that `step` returned last.
    """

    def __init__(
        self,
        network: Qwen3Network,
        cache: PromptCache,
        sampler: Sampler,
        logits: mx.array,
        top_logprobs: int | None = None,
        guide: Guide | None = None,
    ) -> None:
        self.network, self.cache, self.sampler = network, cache, sampler
        self.top_logprobs, self.guide = top_logprobs, guide
        self.logprobs: Logprobs | None = None
        self._next: mx.array | None = None
        self._next_logprobs: Logprobs | None = None
        self.ahead: Ahead | None = None
        """The last probe's computation of the cut that may follow it."""
        self._look_ahead(logits)

    def step(self) -> int:
        """Compute a pass and return the next token. Raises `OutOfMemoryError`."""
        self.cache.make_room(1)
        forward, rows = self.cache.step or self.network, self.rows
        self.take(forward(rows[None], self.cache.layers)[:, -1])
        return self.keep(rows.tolist())  # type: ignore[arg-type]  # nested, to mypy

    @property
    def drawn(self) -> mx.array:
        """``[1]``: the next token, which the network hasn't received yet."""
        if self._next is None:
            self._draw()
            assert self._next is not None
        return self._next

    @property
    def rows(self) -> mx.array:
        """``[n]``: the tokens of the next pass, the drawn one first."""
        return self.drawn

    def take(self, logits: mx.array) -> None:
        """Note that the network has processed `rows`, with the resulting ``logits [n, V]``.

        Without a guide this draws the token after them and starts to evaluate it.
        """
        self.follow(logits)
        draw_ahead([self])

    def follow(self, logits: mx.array) -> None:
        """As `take`, without the draw, which `draw_ahead` makes."""
        token, self.logprobs = self.drawn, self._next_logprobs
        self.sampler.observe(token)
        self._logits, self._next = logits, None

    def keep(self, tokens: list[int]) -> int:
        """Record the accepted tokens and return the first, the drawn one: the cache holds it."""
        self.cache.tokens.append(tokens[0])
        return tokens[0]

    @property
    def ready(self) -> bool:
        """Whether the next `step` already has its token and computes nothing."""
        return False

    def settle(self) -> None:
        """Make the cache hold exactly its tokens; later draws don't change."""

    def hand_over(self) -> None:
        """Evaluate pending arrays, so that another thread can continue from here."""
        self.settle()
        self.cache.settle()
        self.sampler.settle()
        mx.eval(self._logits)
        if self._next is not None:
            mx.eval(self._next, *(self._next_logprobs or ()))

    def close(self) -> None:
        """Hand what outlives the turn over to any thread; a plain decoder has nothing."""

    def adopt(self, tokens: Sequence[int], ahead: Ahead) -> None:
        """As `inject`, if a probe has already computed `tokens`."""
        self.sampler.observe(mx.array(list(tokens), mx.uint32))
        self.cache.adopt(ahead.cache)
        self._look_ahead(ahead.logits)

    def inject(self, tokens: Sequence[int]) -> None:
        """Continue as if `tokens` had been generated: one forward pass for all of them."""
        check_token_ids(tokens, self.network.vocab_size)
        self.sampler.observe(mx.array(list(tokens), mx.uint32))
        logits = prefill(self.network, tokens, self.cache, chunk=len(tokens))
        assert logits is not None
        self._look_ahead(logits)

    def _look_ahead(self, logits: mx.array) -> None:
        self._logits, self._next = logits, None
        draw_ahead([self])

    def _draw(self) -> None:
        allowed = None if self.guide is None else self.guide.allowed()
        mx.async_eval(self._note(self.sampler.draw(self._logits, allowed)))

    def _note(self, token: mx.array) -> list[mx.array]:
        """Set `token` as the drawn one; returns the arrays to evaluate."""
        self._next, self._next_logprobs = token, None
        if self.top_logprobs is None:
            return [token]
        self._next_logprobs = logprobs(self._logits, token, self.top_logprobs)
        return [token, *self._next_logprobs]


def draw_ahead(decoders: Sequence[Decoder], joint: mx.array | None = None) -> None:
    """Draw the next token of each of `decoders` that has none, and start to evaluate it.

    A decoder with a guide draws later, once the guide knows the previous token; only its logits
    are started here. joint: all logits as one array ``[B, V]``, if they are its rows.
    """
    waiting = [one for one in decoders if one._next is None]
    guided = [one for one in waiting if one.guide is not None]
    plain = [one for one in waiting if one.guide is None]
    whole = joint if joint is not None and len(plain) == len(joint) else None
    tokens = draw_together([one.sampler for one in plain], [one._logits for one in plain], whole)
    begun = [array for one in guided for array in (one._logits, *one.sampler.masks)]
    for one, token in zip(plain, tokens, strict=True):
        begun += one._note(token)
    mx.async_eval(begun)


def run(
    decoder: Decoder, sequence: TurnSequence, left: Callable[[], bool] = lambda: False
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Generate a turn as `sequence` decides; yields (ids, generated).

    Generated ids come one by one, the end of the turn included; injected ones all at once. When the
    iterator is exhausted, `sequence` has counted them and knows how the turn ended. If `left`
    returns True before a step, the turn isn't over: `decoder` and `sequence` can continue it.
    """
    decision = probed(decoder, sequence, sequence.begin())
    while not isinstance(decision, End):
        if isinstance(decision, Inject):
            obey(decoder, decision)
            yield decision.ids, decision.generated
        if left():
            return
        token = decoder.step()
        yield (token,), True
        decision = probed(decoder, sequence, sequence.take(token))


def probed(decoder: Decoder, sequence: TurnSequence, decision: Decision) -> Decision:
    """`decision`, or the sequence's decision after the probe for which `decision` asks.

    The decoder's state, its look-ahead token and its later draws stay the same.
    """
    if not isinstance(decision, Ask):
        return decision
    began = time.perf_counter()
    decoder.settle()
    found = probe(decoder.network, decoder.cache, decision, sequence.markers)
    decoder.ahead = found.ahead
    return sequence.hear(found.answer, found.tokens, time.perf_counter() - began)


def obey(decoder: Decoder, decision: Inject) -> None:
    """Inject the ids of `decision`, and never draw the id that it forbids."""
    decoder.logprobs = None
    if decision.forbidden is not None:
        decoder.sampler.forbid(decision.forbidden)
    if decision.probed and decoder.ahead is not None:
        decoder.adopt(decision.ids, decoder.ahead)
    else:
        decoder.inject(decision.ids)
    decoder.ahead = None
