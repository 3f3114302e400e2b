"""A key/value cache with its token ids, so that a prompt computes only its new part."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy

import mlx.core as mx

from qwen3_mlx.device.out_of_memory import is_out_of_memory, out_of_memory
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.fit.guard import require
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.evaluate import growing_together
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat


class PromptCache:
    """The cache of one conversation and the ids that it holds.

    ``tokens`` lists the computed ids. After an interruption layers may hold more; they are
    trimmed before the next use. A turn or the background thread holds ``lock`` while it computes.
    Raises `OptionError` if the network's keys and values can't be stored in this format.
    """

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat = AS_COMPUTED,
        like: PromptCache | None = None,
    ) -> None:
        """like: a cache of this network and format whose fused step it shares, in one thread."""
        self.network, self.cache_format = network, cache_format
        self.step: FusedStep | None = (
            like.step if like else FusedStep.if_available(network, cache_format)
        )
        """The fused step of one token; None if the plain network decodes."""
        self.layers: list[KVCache] = self.empty_layers()
        self.tokens: list[int] = []
        self.lock = threading.Lock()
        self._rounded = 0
        """The capacity that `round_up` has last tried to round up."""
        self._kept_beside = False
        """Whether this is a branch: growing copies buffers that the original cache keeps, too."""

    def empty_layers(self) -> list[KVCache]:
        """New caches, one per layer."""
        return self.step.make_cache() if self.step else self.network.make_cache(self.cache_format)

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep the common prefix with `prompt`; returns its length.

        At least the last token of `prompt` is left to compute, because its logits are needed.
        """
        return self.keep(prompt[:-1])

    def keep(self, tokens: Sequence[int]) -> int:
        """Keep the longest common prefix with `tokens`, drop the rest; returns its length.

        A rotating cache may drop more, because the window it returns to must be complete.
        """
        kept = 0
        for held, wanted in zip(self.tokens, tokens, strict=False):
            if held != wanted:
                break
            kept += 1
        return self.truncate(kept)

    def truncate(self, length: int) -> int:
        """Keep the first `length` tokens, or as many as possible; returns how many."""
        kept = self.layers[0].reach(length)
        whole = True
        for layer in self.layers:
            if beyond := layer.offset - kept:  # usually none; this runs in every step
                whole &= layer.trim(beyond) == beyond
        if not whole:  # an interrupted step has moved some windows
            self.layers[:], kept = self.empty_layers(), 0
        del self.tokens[kept:]
        return kept

    def drop_uncommitted(self) -> None:
        """Remove tokens beyond `tokens` that an interrupted step may have left in the layers."""
        self.truncate(len(self.tokens))

    def clear(self) -> None:
        """Drop all tokens, and return the memory to the system."""
        self.layers[:], self.tokens[:] = self.empty_layers(), []
        mx.clear_cache()

    def branch(self) -> PromptCache:
        """A cache that continues from here while this one stays bit-identical.

        Both share buffers: this cache ignores rows after its own tokens. So only one branch at a
        time may compute, and this cache only when that branch is finished.
        """
        other = copy(self)
        other.layers, other.tokens = [copy(layer) for layer in self.layers], [*self.tokens]
        other._kept_beside = True
        return other

    def adopt(self, branch: PromptCache) -> None:
        """Take over the layers and tokens of `branch`."""
        self.layers[:], self.tokens[:] = branch.layers, branch.tokens

    def settle(self) -> None:
        """Evaluate pending arrays, so that another thread can continue from here."""
        mx.eval([layer.state for layer in self.layers])

    def mark(self) -> None:
        """Note that the next prompt probably shares exactly the tokens held now."""
        for layer in self.layers:
            layer.mark()
        if (lead := self.network.model.lead) is not None:
            lead.mark(self.layers)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Surround all code that computes into the cache; afterwards the layers hold ``tokens``.

        After an error the layers are unknown, so all are dropped, and `OutOfMemoryError` replaces
        MLX's error. An `OutOfMemoryError` that `require` raised beforehand drops nothing.
        """
        try:
            yield
        except OutOfMemoryError:
            raise
        except Exception as error:
            if (lead := self.network.model.lead) is not None:
                lead.await_loss(error)
            tokens = len(self.tokens)
            self.clear()
            if is_out_of_memory(error):
                raise out_of_memory(error, tokens, self.cache_format != AS_COMPUTED) from error
            raise
        finally:
            self.drop_uncommitted()

    def make_room(self, tokens: int) -> None:
        """Check that the buffers can grow by `tokens`; copying a buffer takes twice its memory.

        Raises `OutOfMemoryError`. `fit.chunk_size` already counts the first buffers.
        """
        first = self.layers[0]
        held = first.capacity
        if held and self.cache_format.window is None and first.offset + tokens > held:
            count = len(self.tokens)
            larger = max(1.0, (first.offset + tokens) / held - 1) + self._kept_beside
            hint = "try --kv-bits 8, a shorter conversation (/clear) or a smaller model (/model)"
            require(int(larger * self.nbytes), f"at {count:,} tokens", hint)

    def round_up(self) -> None:
        """Round the buffers up to a capacity that few others differ from, if memory allows.

        See `KVCache.even_capacity`; a window's buffers stay as they are. It is tried once for each
        capacity, as asking for the free memory takes a while.
        """
        held, wanted = self.capacity, self.layers[0].even_capacity()
        if self.cache_format.window is not None or not held < wanted or held == self._rounded:
            return
        self._rounded = held
        try:
            require(int((wanted / held - 1 + self._kept_beside) * self.nbytes), "to round up")
        except OutOfMemoryError:
            return
        with growing_together():
            for layer in self.layers:
                layer.reserve(wanted)

    def grows(self, tokens: int) -> bool:
        """Whether a step of `tokens` copies all layers' buffers into larger ones."""
        return self.layers[0].grows(tokens)

    @property
    def capacity(self) -> int:
        """Positions in each layer's buffers."""
        return self.layers[0].capacity

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' buffers."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def kind(self) -> str:
        """The storage format, in words."""
        return self.layers[0].kind
