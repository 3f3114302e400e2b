"""Drafts: what checking them costs a turn, with shares of right ones that are forced.

Weights are random, so no draft would be right: the logits of a check are raised where a draft is to
be accepted. Every other cost is a turn's own: the wait for the last token, draws, trims.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx

from benchmarks.gpu import RESULTS, say
from benchmarks.gpu.rates import SIZES, fill, net_of
from benchmarks.record import interleaved, summary
from qwen3_mlx.bench.rates import GREEDY
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import Check, way_to_check
from qwen3_mlx.engine.payoff import Payoff
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.options import AS_COMPUTED

ACCEPTED = (0.0, 0.5, 0.8, 1.0)
DRAFTS = (1, 3, 7)


@dataclass(slots=True)
class Forced:
    """Proposes anything; a share of it is accepted, each draft by a draw of its own."""

    check: Check
    accepted: float
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def begin(self) -> None:
        """Nothing is remembered."""

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        """Nothing is remembered."""
        return True

    def settle(self) -> None:
        """Nothing is under way."""

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array:
        """Waits for the last token, as a lookup does."""
        drawn.item()
        return mx.array([self.draw.randrange(5, 500) for _ in range(most)], mx.uint32)

    def checked(self, rows: mx.array, layers: list[KVCache]) -> mx.array:
        """The check's logits, raised at the drafts that are to be right."""
        logits = self.check(rows, layers)
        right = [self.draw.random() < self.accepted for _ in range(len(rows) - 1)]
        raised = mx.array([1e4 if each else 0.0 for each in [*right, False]], logits.dtype)
        following = mx.concatenate([rows[1:], rows[:1]])
        at = mx.arange(logits.shape[-1]) == following  # [R, V]
        return logits + (at * raised[:, None])[:, None]


class Fixed(Payoff):
    """Asks for so many drafts in every step."""

    many = 3

    @property
    def drafts(self) -> int:
        """As `Payoff.drafts`."""
        return self.many


def decoder_of(shape: str, accepted: float | None, payoff: Payoff) -> Decoder:
    """A decoder behind a context of random keys and values; accepted None: without drafts."""
    net = net_of(shape)
    cache = PromptCache(net)
    fill(net, shape, cache.layers)
    cache.tokens = [0] * SIZES.context
    sampler = Sampler(GREEDY, net.vocab_size)
    logits = mx.zeros((1, net.vocab_size), net.model.norm.weight.dtype)
    check, reason = way_to_check(net, AS_COMPUTED)
    if accepted is None or check is None:
        if check is None:
            RESULTS[f"no drafts {shape}"] = reason
        return Decoder(net, cache, sampler, logits)
    forced = Forced(check, accepted)
    speculating = Speculating(forced, forced.checked, payoff)
    return SpeculativeDecoder(net, cache, sampler, logits, None, speculating, lambda: 10**6)


def rate(shape: str, accepted: float | None, many: int = 0) -> float:
    """One sample: tokens a second; `many` 0 leaves it to `Payoff`, once it has decided."""
    payoff = Payoff()
    if many:
        payoff = Fixed()
        payoff.many = many
    decoder = decoder_of(shape, accepted, payoff)
    for _ in range(8 if accepted is None or many else 48):
        decoder.step()
    begin = time.perf_counter()
    for _ in range(SIZES.tokens):
        decoder.step()
    return SIZES.tokens / (time.perf_counter() - begin)


def compared(shape: str, rounds: int = 5) -> None:
    """Plain, each share at each number of drafts, and useless drafts that were given up."""
    os.environ["QWEN3_MLX_KERNELS"] = "auto"
    choose_backend(net_of(shape))
    arms: dict[str, Callable[[], float]] = {"plain": partial(rate, shape, None)}
    for many in DRAFTS:
        for accepted in ACCEPTED:
            arms[f"{many} drafts, {accepted:.0%} right"] = partial(rate, shape, accepted, many)
    arms["none right, given up"] = partial(rate, shape, 0.0)
    found = {name: summary(samples) for name, samples in interleaved(arms, rounds).items()}
    RESULTS[f"drafts {shape}"] = found
    if reason := RESULTS.get(f"no drafts {shape}"):
        say(f"{shape}: no drafts here: {reason}")
    plain = found["plain"]["median"]
    for name, row in found.items():
        say(f"{shape}, {name}: {row['median']:.0f} tok/s, {row['median'] / plain:.2f} x plain")
    mx.clear_cache()
