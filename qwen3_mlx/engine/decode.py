"""Generating one token after another, with the next step always under way."""

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
    """One sequence being generated: step t+1 is started before token t is read.

    When `step` returns token t, the cache holds it and the logits behind it are being computed;
    without a guide token t+1 is drawn too, but never fed. So a cut needs no trimming: the
    look-ahead token is dropped, and the cache is exactly what it would be had generation stopped
    at t. With a `guide`, t+1 is drawn in the next `step`, once the guide knows t: it works out what
    may come while the device computes. With `top_logprobs`, `logprobs` belongs to the token that
    `step` returned last.
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
        """What the last probe computed of the cut that may follow it."""
        self._look_ahead(logits)

    def step(self) -> int:
        """The next token."""
        self.cache.make_room(1)
        forward, rows = self.cache.step or self.network, self.rows
        self.take(forward(rows[None], self.cache.layers)[:, -1])
        return self.keep(rows.tolist())  # type: ignore[arg-type]  # nested, to mypy

    @property
    def drawn(self) -> mx.array:
        """``[1]``: the next token, which the network hasn't been given yet."""
        if self._next is None:
            self._draw()
            assert self._next is not None
        return self._next

    @property
    def rows(self) -> mx.array:
        """``[n]``: the tokens of the next pass, the drawn one first."""
        return self.drawn

    def take(self, logits: mx.array) -> None:
        """Note that the network was given `rows`, which ``logits [n, V]`` follow.

        Without a guide the token after them is drawn, and begun to be computed.
        """
        self.follow(logits)
        draw_ahead([self])

    def follow(self, logits: mx.array) -> None:
        """As `take`, but for the draw, which is left to `draw_ahead`."""
        token, self.logprobs = self.drawn, self._next_logprobs
        self.sampler.observe(token)
        self._logits, self._next = logits, None

    def keep(self, tokens: list[int]) -> int:
        """Note which tokens were taken, the drawn one first: the cache holds it. Returns it."""
        self.cache.tokens.append(tokens[0])
        return tokens[0]

    @property
    def ready(self) -> bool:
        """Whether the next `step` has its token already, and computes nothing."""
        return False

    def settle(self) -> None:
        """Have the cache hold its tokens and no more; nothing that is to be drawn changes."""

    def hand_over(self) -> None:
        """Compute what is under way, so that another thread can go on from here."""
        self.settle()
        self.cache.settle()
        self.sampler.settle()
        mx.eval(self._logits)
        if self._next is not None:
            mx.eval(self._next, *(self._next_logprobs or ()))

    def close(self) -> None:
        """Leave what outlives the turn to any thread."""

    def adopt(self, tokens: Sequence[int], ahead: Ahead) -> None:
        """As `inject`, where a probe has computed `tokens` already."""
        self.sampler.observe(mx.array(list(tokens), mx.uint32))
        self.cache.adopt(ahead.cache)
        self._look_ahead(ahead.logits)

    def inject(self, tokens: Sequence[int]) -> None:
        """Go on as if `tokens` had been generated next: one forward pass for all of them."""
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
        """Take `token` for the drawn one; returns what is to be computed."""
        self._next, self._next_logprobs = token, None
        if self.top_logprobs is None:
            return [token]
        self._next_logprobs = logprobs(self._logits, token, self.top_logprobs)
        return [token, *self._next_logprobs]


def draw_ahead(decoders: Sequence[Decoder], joint: mx.array | None = None) -> None:
    """Draw the next token of each of `decoders` that has none yet, and begin to compute it.

    One with a guide draws later, once the guide knows the token before: its logits are begun.
    joint: the logits of all of them, ``[B, V]``, if they are rows of one array.
    """
    waiting = [one for one in decoders if one._next is None]
    guided = [one for one in waiting if one.guide is not None]
    plain = [one for one in waiting if one.guide is None]
    whole = joint if joint is not None and len(plain) == len(joint) else None
    tokens = draw_together([one.sampler for one in plain], [one._logits for one in plain], whole)
    begun = [one._logits for one in guided]
    for one, token in zip(plain, tokens, strict=True):
        begun += one._note(token)
    mx.async_eval(begun)


def run(
    decoder: Decoder, sequence: TurnSequence, left: Callable[[], bool] = lambda: False
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Generate a turn as `sequence` says, yielding (ids, generated).

    Generated ids come one by one, the end of the turn included; injected ones all at once.
    `sequence` has counted them, and knows how the turn ended, when the iterator is exhausted. Once
    `left` says yes, before a step, the turn isn't over: `decoder` and `sequence` can go on with it.
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
    """`decision`, or what the sequence says to the answer where it wants one.

    The decoder stays where it was, its look-ahead token and its draws to come included.
    """
    if not isinstance(decision, Ask):
        return decision
    began = time.perf_counter()
    decoder.settle()
    found = probe(decoder.network, decoder.cache, decision, sequence.markers)
    decoder.ahead = found.ahead
    return sequence.hear(found.answer, found.tokens, time.perf_counter() - began)


def obey(decoder: Decoder, decision: Inject) -> None:
    """Put in what the sequence wants, and never draw what it forbids."""
    decoder.logprobs = None
    if decision.forbidden is not None:
        decoder.sampler.forbid(decision.forbidden)
    if decision.probed and decoder.ahead is not None:
        decoder.adopt(decision.ids, decoder.ahead)
    else:
        decoder.inject(decision.ids)
    decoder.ahead = None
