"""Steps of several sequences in one pass, with drafts among their rows where drafts pay."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import mlx.core as mx

from qwen3_mlx.engine.decode import Decoder, draw_ahead
from qwen3_mlx.engine.payoff import LEARNING, Payoff
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.speculative import DRAFTS_WORTH, SpeculativeDecoder
from qwen3_mlx.engine.task import Counts
from qwen3_mlx.metal import attend
from qwen3_mlx.metal.variants_rows import ROWS
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.fused_rows import MOST_ROWS, FusedRows
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.nn.trial_rows import RowsOnDemand
from qwen3_mlx.options import CacheFormat

AT_ONCE = 64
"""Tokens that one sequence's drafter reads per step, because the other sequences wait for it."""

REST_SECONDS = 1.0
"""Seconds without a step before a kernel is compiled: an immediate new request must not wait."""

Rows = Callable[[mx.array, Sequence[Sequence[KVCache]], Sequence[int]], mx.array]
"""Computes the rows of several sequences, as `Qwen3Network.rows` does."""


def way_together(
    network: Qwen3Network, cache_format: CacheFormat
) -> tuple[Rows | None, FusedRows | None]:
    """The pass for all sequences, and its `FusedRows` if it is fused.

    None if fused steps of one sequence each are faster. On an H100, 8B wrote 299 tok/s in steps of
    one each, and 107 to 204 in MLX's operations for 2 to 16 sequences.
    """
    rows = FusedRows.if_available(network, cache_format)
    if rows is not None:
        return rows.rows, rows
    if FusedStep.if_available(network, cache_format) is not None:
        return None, None
    return network.rows, None


def step_together(decoders: Sequence[Decoder], forward: Rows | None) -> list[int]:
    """The next token of each of `decoders`, from one forward pass of their common network.

    Without `forward`, each has a pass of its own. Their caches must have room. Each draws with its
    own seed, options and penalties.
    """
    if len(decoders) == 1 or forward is None:
        return [decoder.step() for decoder in decoders]
    rows = [decoder.rows for decoder in decoders]
    counts = [len(one) for one in rows]
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    tokens = mx.concatenate(rows)  # [R]
    mx.async_eval(tokens)  # evaluated apart, so that reading the tokens doesn't wait for their pass
    caches = [decoder.cache.layers for decoder in decoders]
    logits = forward(tokens[:, None], caches, counts)[:, -1]
    if len(tokens) > len(decoders):  # drafts: nothing is under way, so the device begins now
        mx.async_eval(logits)
    for decoder, part in zip(decoders, mx.split(logits, ends[:-1]), strict=True):
        decoder.follow(part)
    draw_ahead(decoders, logits)
    values: list[int] = tokens.tolist()  # type: ignore[assignment]  # nested, to mypy
    spans = zip(decoders, ends, counts, strict=True)
    return [decoder.keep(values[end - count : end]) for decoder, end, count in spans]


class PlainTimes:
    """The times of steps with one token per sequence, by the number of sequences."""

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}

    def note(self, count: int, seconds: float) -> None:
        """Record a step of `count` sequences."""
        self._last.setdefault(count, deque(maxlen=15)).append(seconds)

    def of(self, count: int) -> float | None:
        """Median seconds of a step of `count` sequences; None after fewer than `LEARNING` steps."""
        last = self._last.get(count, ())
        if len(last) < LEARNING:
            return None
        return statistics.median(last) if last else 0.0


class SideBySide:
    """Steps of several sequences, in one pass if that is proven to be right and faster.

    The first step of several starts the proof of the kernels of rows, if it is missing. Drafts
    share the free rows of a pass, and each sequence judges its own by their cost to all.
    """

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat,
        clock: Callable[[], float] = time.perf_counter,
        most: int = MOST_ROWS,
        counts: Counts | None = None,
    ) -> None:
        """most: sequences that may run side by side; counts: counts steps and passes."""
        self._network, self._cache_format = network, cache_format
        self._proof = RowsOnDemand(network, cache_format)
        self._most, self._clock = min(most, attend.most_sequences(bool(cache_format.bits))), clock
        self._drafts = False
        """Whether any sequence uses drafts."""
        self._find_way()
        self._counts = counts or Counts()
        self.times = PlainTimes()
        self._stepped = -math.inf
        """The time at which the last step began."""
        self._met: set[tuple[int, int]] = set()
        self._was_even = True
        self._aside: float | None = None
        """Seconds that drafters spent catching up in the current step; None if none did."""

    @property
    def trying(self) -> bool:
        """Whether the kernels of rows are being proven."""
        return self._proof.under_way

    def reconsider(self) -> None:
        """Use kernels of a single token that were proven meanwhile; those of rows may follow."""
        if not self._proof.under_way:
            self._proof = RowsOnDemand(self._network, self._cache_format)
        self._find_way()

    def _find_way(self) -> None:
        self.forward, self._fused = way_together(self._network, self._cache_format)
        self._choose_steps()

    def _choose_steps(self) -> None:
        """Choose the steps to compile ahead."""
        if self._fused is not None:
            able = [new for new in ROWS if len(new) <= self._most]
            reads = self._fused.reads  # `PromptReader` has one sequence's rows
            self._fused.ahead.steps = [
                new for new in able if self._drafts or max(new) == 1 or (reads and len(new) == 1)
            ]

    def get_ready(self) -> bool:
        """Compile a kernel while no sequence runs; False if none is left, or a step was recent."""
        fused = self._fused
        if fused is None or fused.fault or self._clock() - self._stepped < REST_SECONDS:
            return False
        return fused.ahead.compile_next()

    def is_even(self, caches: Sequence[PromptCache]) -> bool:
        """Whether the next step of these takes about as long as others: nothing grows or is traced.

        Either takes a step of eight sequences of 8B some 40 ms more on an H200. It is False at most
        once in a row, so that a prompt is read in every second round at least.
        """
        even = not any(cache.grows(1) for cache in caches)
        if even and self._fused is not None and len(caches) > 1:
            ordered = sorted(caches, key=lambda cache: cache.capacity)
            even = self._fused.is_traced([one.layers for one in ordered], [1] * len(caches))
        self._was_even = even or not self._was_even
        return self._was_even

    def fused(self) -> FusedRows | None:
        """The fused pass; None if passes are not fused."""
        return self._fused

    def step(self, decoders: Sequence[Decoder], waited: float = 0.0) -> list[int]:
        """As `step_together`; waited: seconds already spent waiting for the last pass."""
        self._stepped = self._clock()
        self._counts.steps += 1
        if len(decoders) > 1 and self._proof.ended():
            self._find_way()
        if len(decoders) < 2 or self.forward is None:
            for one in decoders:
                if isinstance(one, SpeculativeDecoder):
                    one.waited = waited
            self._counts.passes += len(decoders)
            return step_together(decoders, None)
        if self._fused is None:
            return self._step(decoders, waited)
        for one in decoders:
            one.cache.round_up()
        # each combination of capacities is traced once, so it shouldn't matter who came first
        order = sorted(range(len(decoders)), key=lambda n: decoders[n].cache.capacity)
        tokens = self._step([decoders[n] for n in order], waited)
        return [token for _, token in sorted(zip(order, tokens, strict=True))]

    def _step(self, decoders: Sequence[Decoder], waited: float) -> list[int]:
        """As `step`, of several sequences, in this order."""
        drafting = [one for one in decoders if isinstance(one, SpeculativeDecoder)]
        if drafting and not self._drafts:
            self._drafts = True
            self._choose_steps()
        if not self._is_ready(decoders):
            return self._in_parts(decoders)
        able = [self._is_ready(decoders, drafts) for drafts in (1, MOST_ROWS) if drafting]
        began, self._aside = self._clock() - waited, None
        asked = self._draft(drafting, len(decoders)) if all(able) else []
        tokens = step_together(decoders, self.forward)
        self._counts.passes += 1
        seconds = self._clock() - began - (self._aside or 0.0)
        self._learn(drafting, asked, len(decoders), seconds)
        if not all(able):
            self._lost(DRAFTS_WORTH * seconds)
        if not asked and self._aside is None:
            self.times.note(len(decoders), seconds)
        return tokens

    def _is_ready(self, decoders: Sequence[Decoder], drafts: int = 0) -> bool:
        """Whether the kernels of a pass of `decoders` with at most `drafts` drafts are compiled."""
        if self._fused is None:
            return True
        first = 1 + max(min(drafts, MOST_ROWS - len(decoders)), 0)
        caches = [one.cache.layers for one in decoders]
        return self._fused.ready(caches, [first, *[1] * (len(decoders) - 1)])

    def _in_parts(self, decoders: Sequence[Decoder]) -> list[int]:
        """A step in the largest passes that are compiled, without waiting for the compiler.

        Its cost is recorded; once enough is lost, a step waits for the compiler instead.
        """
        began, tokens, passes = self._clock(), list[int](), 0
        while len(tokens) < len(decoders):
            left = decoders[len(tokens) :]
            sizes = range(min(len(left), self._most), 1, -1)
            size = next((size for size in sizes if self._is_ready(left[:size])), 1)
            tokens += step_together(left[:size], self.forward)
            passes += 1
        self._counts.passes += passes
        self._is_ready(decoders)  # makes this step the next one to be compiled
        self._lost((self._clock() - began) * (1 - 1 / passes))
        return tokens

    def _lost(self, seconds: float) -> None:
        if self._fused is not None:
            self._fused.ahead.lost(seconds)

    def _draft(
        self, drafting: Sequence[SpeculativeDecoder], count: int
    ) -> list[SpeculativeDecoder]:
        """Distribute the free rows; returns the decoders that were asked for drafts."""
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
        """Charge each of `asked` its part of the step, and the extra cost of its drafts."""
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
            worth = None if new else plain / count
            one.charge(partial(_learn_shared, payoff, own, one.drafted, worth))


def _learn_shared(
    payoff: Payoff, own: float, drafted: int, plain: float | None, right: int, _draws: float
) -> None:
    payoff.shared(own, drafted, right, plain)
