"""Steps of several sequences in one pass, drafts among their rows where those pay."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

import mlx.core as mx

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.payoff import LEARNING
from qwen3_mlx.engine.speculative import SpeculativeDecoder
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.fused_rows import MOST_ROWS, FusedRows
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.nn.trial_rows import RowsOnDemand
from qwen3_mlx.options import CacheFormat

AT_ONCE = 64
"""Tokens of a conversation that one sequence's drafter reads in a step: the others wait for it."""

Rows = Callable[[mx.array, Sequence[Sequence[KVCache]], Sequence[int]], mx.array]
"""As `Qwen3Network.rows`."""


def way_together(network: Qwen3Network, cache_format: CacheFormat) -> Rows | None:
    """What steps all sequences in one pass; None where fused steps of one each are faster.

    On an H100 8B wrote 299 tok/s by them, and 107 to 204 in MLX's operations for 2 to 16 sequences.
    """
    rows = FusedRows.if_available(network, cache_format)
    if rows is None and FusedStep.if_available(network, cache_format) is not None:
        return None
    return (rows or network).rows


def step_together(decoders: Sequence[Decoder], forward: Rows | None) -> list[int]:
    """The next token of each of `decoders`, from one forward pass of their common network.

    Without `forward` from a pass each. Their caches must have room. Each draws by itself: with its
    own seed, options and penalties.
    """
    if len(decoders) == 1 or forward is None:
        return [decoder.step() for decoder in decoders]
    rows = [decoder.rows for decoder in decoders]
    counts = [len(one) for one in rows]
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    tokens = mx.concatenate(rows)  # [R]
    mx.async_eval(tokens)  # apart, so that reading them doesn't wait for the pass that they begin
    caches = [decoder.cache.layers for decoder in decoders]
    logits = forward(tokens[:, None], caches, counts)[:, -1]
    for decoder, part in zip(decoders, mx.split(logits, ends[:-1]), strict=True):
        decoder.take(part)
    values: list[int] = tokens.tolist()  # type: ignore[assignment]  # nested, to mypy
    spans = zip(decoders, ends, counts, strict=True)
    return [decoder.keep(values[end - count : end]) for decoder, end, count in spans]


class PlainTimes:
    """How long steps of so many sequences take, each of them one token."""

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}

    def note(self, count: int, seconds: float) -> None:
        """Learn from a step of `count` sequences."""
        self._last.setdefault(count, deque(maxlen=15)).append(seconds)

    def of(self, count: int) -> float | None:
        """Seconds of a step of `count` sequences, or None if too few were seen."""
        last = self._last.get(count, ())
        if len(last) < LEARNING:
            return None
        return statistics.median(last) if last else 0.0


class SideBySide:
    """Steps of several sequences, in one pass where that is proven to be right and faster.

    The first time that several run it has the kernels of rows tried, if nobody has. Drafts share
    the rows that a pass has room for, and each sequence judges its own by what they cost all.
    """

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._network, self._cache_format = network, cache_format
        self._proof = RowsOnDemand(network, cache_format)
        self.forward = way_together(network, cache_format)
        self.times = PlainTimes()
        self._clock = clock
        self._met: set[tuple[int, int]] = set()
        self._aside: float | None = None
        """Seconds of a step in which drafters caught up with their conversations, if any did."""

    def step(self, decoders: Sequence[Decoder], waited: float = 0.0) -> list[int]:
        """As `step_together`; waited: seconds of the last pass that somebody has waited for."""
        if len(decoders) > 1 and self._proof.ended():
            self.forward = way_together(self._network, self._cache_format)
        drafting = [one for one in decoders if isinstance(one, SpeculativeDecoder)]
        if len(decoders) < 2 or self.forward is None:
            for one in drafting:
                one.waited = waited
            return step_together(decoders, None)
        began, self._aside = self._clock() - waited, None
        asked = self._draft(drafting, len(decoders))
        tokens = step_together(decoders, self.forward)
        seconds = self._clock() - began - (self._aside or 0.0)
        self._learn(drafting, asked, len(decoders), seconds)
        if not asked and self._aside is None:
            self.times.note(len(decoders), seconds)
        return tokens

    def _draft(
        self, drafting: Sequence[SpeculativeDecoder], count: int
    ) -> list[SpeculativeDecoder]:
        """Share out the rows that are left; returns who was asked for drafts."""
        asked: list[SpeculativeDecoder] = []
        if self.times.of(count) is None:
            return asked
        wanting = [one for one in drafting if one.most(one.speculating.payoff.wanted)]
        left = MOST_ROWS - count
        for index, one in enumerate(wanting):
            payoff = one.speculating.payoff
            most = one.most(min(payoff.wanted, left // (len(wanting) - index)))
            if not most:
                continue
            if payoff.begins:
                began = self._clock()
                ready = one.catch_up(AT_ONCE)
                self._aside = (self._aside or 0.0) + self._clock() - began
                if not ready:
                    break
            left -= one.draft(most)
            asked.append(one)
        return asked

    def _learn(
        self,
        drafting: Sequence[SpeculativeDecoder],
        asked: Sequence[SpeculativeDecoder],
        count: int,
        seconds: float,
    ) -> None:
        """Charge those `asked` with their own part of a step, and what their drafts cost beyond."""
        plain, drafted = self.times.of(count), sum(one.drafted for one in asked)
        new = (count, drafted) not in self._met and bool(drafted)
        self._met.add((count, drafted))
        for one in drafting:
            payoff = one.speculating.payoff
            if one not in asked or plain is None:
                payoff.passed()
                continue
            beyond = max(seconds - plain, 0.0) * one.drafted / drafted if drafted else 0.0
            own = plain / count + beyond if drafted else seconds / count
            payoff.shared(own, one.drafted, one.accepted, None if new else plain / count)
