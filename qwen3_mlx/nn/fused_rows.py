"""Passes a few rows through the whole network in few launches; all rows share one read of weights.

Rows are the last tokens of several sequences, each with its own past, or new tokens of one
sequence, or both. As in `fused_step` the modules define the network, and take over whenever a
kernel raises.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import mlx.core as mx

from qwen3_mlx.device.out_of_memory import is_out_of_memory
from qwen3_mlx.metal import attend, dispatch, layer, rotation, skinny
from qwen3_mlx.metal.matrix import Matrix, unsupported_matrices
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.tailed import Opened, TailedCache, grow_together, open_together
from qwen3_mlx.nn.evaluate import growing_together
from qwen3_mlx.nn.fused_step import as_matrices, choose_arms, unsupported_network
from qwen3_mlx.nn.guarded import computed, first_line, is_of_a_trace
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.rope import rotation_table
from qwen3_mlx.nn.rows_ahead import RowsAhead
from qwen3_mlx.nn.signature import head_of, layer_of, say, verdict_of
from qwen3_mlx.nn.step_parts import StepParts
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

MOST_ROWS = attend.MOST_ROWS
"""Maximum rows of a step; steps with more run in MLX's operations."""

_MOST_MET = 256
"""Maximum combinations of buffer sizes for which compiled graphs are kept, some 0.3 MB each."""

Counts = list[tuple[int, int]]
"""Each sequence's tokens in its buffers and in its tail."""


class _Last(threading.local):
    """What this thread's last step foresaw: a lazy array belongs to the thread that made it."""

    counts: tuple[Counts, mx.array] | None = None
    """The counts after it, unless a sequence joins, leaves or moves its tail."""


class FusedRows:
    """A compiled step of a few rows; one instance serves all conversations of a scheduler.

    It keeps the weights it was made with: create another after replacing them.
    """

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat = AS_COMPUTED,
        operations: layer.Operations = layer.ROWS,
    ) -> None:
        self.network, self.cache_format, self.operations = network, cache_format, operations
        self.head = head_of(network)
        self.layers = [layer_of(block) for block in network.layers]
        first = network.layers[0].self_attn
        self.table = rotation_table(first.head_dim, first.rope.rope)
        self.ahead = RowsAhead(network, cache_format, skinny=operations is layer.ROWS)
        """Tracks which of its kernels are compiled."""
        self.fault = ""
        """Why it takes the plain path from now on; empty if it doesn't."""
        self._met: set[object] = set()
        self._places: dict[tuple[int, ...], mx.array] = {}
        self._last = _Last()
        self._forward = self._parts()

    @classmethod
    def if_available(
        cls, network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED
    ) -> FusedRows | None:
        """The step of `network`, or None if rows take the plain path."""
        operations, reason = choose_operations(network, cache_format)
        return None if operations is None or reason else cls(network, cache_format, operations)

    def together(self, tokens: mx.array, caches: Sequence[Sequence[KVCache]]) -> mx.array:
        """As `Qwen3Network.together`: one token of each sequence."""
        return self.rows(tokens, caches, [1] * len(caches))

    def successive(self, tokens: mx.array, cache: Sequence[KVCache]) -> mx.array:
        """As `Qwen3Network.successive`."""
        return self.rows(tokens, [cache], [len(tokens)])

    def ready(self, caches: Sequence[Sequence[KVCache]], new: Sequence[int]) -> bool:
        """Whether `rows` runs without compiling a kernel."""
        held = self._held(caches, new)
        if held is None:
            return True  # MLX's operations run it
        rooms = [layers[0].rooms(count) for layers, count in zip(held, new, strict=True)]
        return self.ahead.ready(tuple(new), rooms)

    def is_traced(self, caches: Sequence[Sequence[KVCache]], new: Sequence[int]) -> bool:
        """Whether `rows` runs by a graph that was traced before, if no buffer grows."""
        held = self._held(caches, new)
        if held is None:
            return True
        shapes = [tuple(a.shape for a in layers[0].buffers(0)) for layers in held]
        return (len(new), sum(new), *shapes) in self._met

    @property
    def reads(self) -> bool:
        """Whether prompts are read by such steps: whether all products are this package's."""
        return self.operations is layer.ROWS

    def multiplies(self, caches: Sequence[Sequence[KVCache]], new: Sequence[int]) -> bool:
        """Whether `rows` runs all its products by this package's kernels, without compiling one."""
        return self.reads and self._held(caches, new) is not None and self.ready(caches, new)

    def rows(
        self, tokens: mx.array, caches: Sequence[Sequence[KVCache]], new: Sequence[int]
    ) -> mx.array:
        """``tokens [R, 1]``, first ``new[0]`` of the first sequence, to logits ``[R, 1, V]``.

        caches: each sequence's caches, one per layer; they grow.
        """
        held = self._held(caches, new)
        if held is None:
            return self._plainly(tokens, caches, new)
        try:
            logits, opened, tails = self._run(tokens, held, new)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if not is_of_a_trace(error):
                self.fault = first_line(error)
                say(f"a fused step of rows failed, so plain operations go on: {self.fault}")
            return self._plainly(tokens, caches, new)
        grow_together(held, opened, tails, new)
        return logits

    def _held(
        self, caches: Sequence[Sequence[KVCache]], new: Sequence[int]
    ) -> list[list[TailedCache]] | None:
        """The caches, if kernels can run on them; None if MLX's operations run this step."""
        held = [[one for one in layers if isinstance(one, TailedCache)] for layers in caches]
        able = all(len(a) == len(b) and b[0].state for a, b in zip(held, caches, strict=True))
        if self.fault or not able or sum(new) > MOST_ROWS or not self._fits(new):
            return None
        return held

    def _fits(self, new: Sequence[int]) -> bool:
        """Whether the arrays of this many sequences fit into one launch."""
        return len(new) <= attend.most_sequences(bool(self.cache_format.bits))

    def _plainly(
        self, tokens: mx.array, caches: Sequence[Sequence[KVCache]], new: Sequence[int]
    ) -> mx.array:
        if max(new) == 1:
            return self.network.together(tokens, caches)
        ends = [sum(new[: index + 1]) for index in range(len(new) - 1)]
        parts = zip(mx.split(tokens, ends), caches, strict=True)
        outs = [self.network(part.reshape(1, -1), list(cache)) for part, cache in parts]
        return mx.concatenate([out.swapaxes(0, 1) for out in outs])

    def _run(
        self, tokens: mx.array, held: Sequence[Sequence[TailedCache]], new: Sequence[int]
    ) -> tuple[mx.array, Opened, list[mx.array]]:
        with growing_together():
            opened = open_together(held, new)
        now = [(layers[0].held, layers[0].recent) for layers in held]
        foreseen, self._last.counts = self._last.counts, None
        known = foreseen is not None and foreseen[0] == now
        counts = foreseen[1] if foreseen and known else mx.array(now, mx.int32)
        sizes = (
            len(new),
            len(tokens),
            *(tuple(a.shape for a in buffers) for buffers in opened[0][0]),
        )
        if sizes not in self._met and len(self._met) >= _MOST_MET:
            self._met.clear()
            self._forward = self._parts()
        places = self._places_of(tuple(new))
        logits, tails, (following,) = self._forward(tokens, opened, counts, places)
        if sizes not in self._met:  # compiler and device errors must surface within the `try`
            computed(logits, *tails)
            self._met.add(sizes)
        moved = [(old, recent + more) for (old, recent), more in zip(now, new, strict=True)]
        self._last.counts = moved, following
        return logits, opened, tails

    def _places_of(self, new: tuple[int, ...]) -> mx.array:
        """Each row's sequence, and its place among that sequence's rows: ``[R, 2]``."""
        if new not in self._places:
            if len(self._places) >= _MOST_MET:
                self._places.clear()
            places = [[index, ahead] for index, count in enumerate(new) for ahead in range(count)]
            self._places[new] = mx.array(places, mx.int32)
        return self._places[new]

    def _parts(self) -> StepParts:
        return StepParts(self._begin, self._through, len(self.layers))

    def _begin(
        self, tokens: mx.array, counts: mx.array, rows: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        turns, following = rotation.rotations(self.table, counts, rows)
        return self.network.model.embed_tokens(tokens), turns, following

    def _through(
        self,
        span: slice,
        x: mx.array,
        turns: mx.array,
        opened: list[tuple[list[tuple[mx.array, ...]], mx.array]],
        counts: mx.array,
        rows: mx.array,
    ) -> tuple[mx.array, list[mx.array]]:
        most = 1 if len(counts) == len(rows) else MOST_ROWS
        tails = []
        for one, (buffers, tail) in zip(self.layers[span], opened, strict=True):
            keys, values = zip(*(self._matrices(each) for each in buffers), strict=True)
            past = attend.Pasts(keys, values, tail, counts, rows, most)
            x, tail = one.step(x, turns, past, self.operations)
            tails.append(tail)
        return self._logits(x) if span.stop == len(self.layers) else x, tails

    def _matrices(self, arrays: tuple[mx.array, ...]) -> tuple[Matrix, Matrix]:
        return as_matrices(arrays, self.cache_format, self.network.head_dim)

    def _logits(self, x: mx.array) -> mx.array:
        norm = self.network.model.norm
        if unsupported_matrices([self.head], x.dtype):
            return self.network.head(norm(x))
        return self.operations.matvec(x, [self.head], norm.weight, norm.eps)


def choose_operations(
    network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED
) -> tuple[layer.Operations | None, str | None]:
    """The operations for products of rows on this machine, or None and the reason."""
    arms, reason = choose_arms(network, cache_format)
    if reason or set(arms) == {"stock"}:
        return None, reason or "MLX's own operations are as fast on this machine"
    if why := unsupported_network(network, cache_format):
        return None, why
    held = verdict_of(network, cache_format)
    if reason := dispatch.unavailable_reason("attend_rows", verdict=held):
        return None, reason
    reason = dispatch.unavailable_reason("skinny", verdict=held) or _unsupported(network)
    if reason is None:
        return layer.ROWS, None
    moe = any(isinstance(block.mlp, MoE) for block in network.layers)
    return (None, reason) if moe else (layer.HYBRID, None)


def _unsupported(network: Qwen3Network) -> str | None:
    dtype = network.model.norm.weight.dtype
    groups = [group for block in network.layers for group in layer_of(block).groups() if group]
    reasons = (skinny.unsupported_reason(dtype, group) for group in [*groups, [head_of(network)]])
    return next((reason for reason in reasons if reason), None)
