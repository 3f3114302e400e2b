"""Compiles the kernels of rows before a step needs them, one text at a time, while nobody waits.

MLX compiles in the thread that first launches a text, and meanwhile holds a lock that every launch
of any thread takes: a compiling thread beside the turns would delay them just as long. So the
scheduler compiles when it is idle, and a step whose kernels aren't compiled takes another path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import qwen3_mlx.device.backend as backend

from qwen3_mlx.metal import attend, dispatch
from qwen3_mlx.metal.compile_ahead import COMPILED, compile_ahead, settle
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import CAPACITIES, SHORT, text_digest
from qwen3_mlx.metal.variants_rows import New, launches_of
from qwen3_mlx.nn import ahead
from qwen3_mlx.nn.signature import signatures
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

NAP_SECONDS = 0.02

FIRST_TEXT_S = {"cuda": 2.0, "metal": 0.25}
"""Estimated seconds per text until one has been compiled."""

PATIENCE_S = 5.0
"""Seconds that sequences may lose without the kernels before they wait for one to compile."""

Step = tuple[New, bool]
"""The new tokens per sequence, and whether `attend` reads the past in parts."""


class RowsAhead:
    """Tracks which steps of rows are compiled in this process, and which text comes next."""

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat = AS_COMPUTED,
        *,
        skinny: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """skinny: whether this package's kernels compute the rows' products, besides attention."""
        self._network, self._cache_format = network, cache_format
        self._skinny, self._clock = skinny, clock
        self.steps: Sequence[New] = ()
        """The steps for which `compile_next` compiles, the most wanted first."""
        self._texts: dict[tuple[int | bool, ...], frozenset[str]] = {}
        self._launches: dict[str, Launch] = {}
        self._wanted: list[Step] = []
        self._guess, self._lost = FIRST_TEXT_S.get(backend.device(), 0.0), 0.0

    def ready(self, new: New, rooms: Sequence[tuple[int, int]]) -> bool:
        """Whether a step of `new` rows runs without compiling.

        rooms: each sequence's buffer capacity in tokens, now and at most in that step.
        """
        if dispatch.trusted():
            return True
        splits = {any(pick(room) > CAPACITIES[0] for room in rooms) for pick in (min, max)}
        missing = [(new, split) for split in splits if not self._texts_of(new, split) <= COMPILED]
        self._wanted = missing or self._wanted
        return not missing

    def compile_next(self) -> bool:
        """Compile a text; False if there is none left to compile."""
        if dispatch.trusted():
            return False
        if ahead.under_way():  # the kernels of a single sequence come first
            time.sleep(NAP_SECONDS)
            return True
        text = next(self._missing(), None)
        if text is not None:
            began = self._clock()
            compile_ahead([self._launches[text]])
            COMPILED.add(text)  # if it failed, its step falls back to MLX's operations
            self._guess = self._clock() - began
        return text is not None

    def lost(self, seconds: float) -> bool:
        """Note the `seconds` that a step lost without kernels; True if a text was compiled for it.

        That happens once the loss exceeds the time of compiling by `PATIENCE_S`.
        """
        self._lost += seconds
        if self._lost < PATIENCE_S + self._guess or not self.compile_next():
            return False
        self._lost -= self._guess
        return True

    def _missing(self) -> Iterator[str]:
        """The texts that aren't compiled, the most wanted first."""
        every = [(new, split) for split in (False, True) for new in self.steps]
        for step in [*self._wanted, *every]:
            yield from sorted(self._texts_of(*step) - COMPILED)

    def _texts_of(self, new: New, split: bool) -> frozenset[str]:
        names = attend.padded(len(new), bool(self._cache_format.bits))
        short = (2 * len(new) < SHORT, 2 * sum(new) < SHORT)  # per sequence, and per row
        kind = (names, max(new) > 1, sum(new) > 8, split, *short)
        if kind not in self._texts:
            made = [
                launch
                for one in signatures(self._network, self._cache_format)
                for launch in launches_of(one, new, split)
                if self._skinny or launch.kernel != "skinny"
            ]
            settle(made)
            found = {text_digest(launch): launch for launch in made}
            self._launches |= found
            self._texts[kind] = frozenset(found)
        return self._texts[kind]
