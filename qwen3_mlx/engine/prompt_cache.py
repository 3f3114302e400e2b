"""The tokens a key/value cache holds, so that the next prompt pays for its new part only."""

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
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat


class PromptCache:
    """A cache of one conversation and the ids it stands for.

    ``tokens`` lists the computed ids; after an interruption layers may hold more, and are trimmed
    before the next use. A turn or the background holds ``lock`` while it computes here. Raises
    `OptionError` for a network whose keys and values can't be stored so.
    """

    def __init__(self, network: Qwen3Network, cache_format: CacheFormat = AS_COMPUTED) -> None:
        self.network, self.cache_format = network, cache_format
        self.step = FusedStep.if_available(network, cache_format)
        """One token in few launches, where the kernels run; None takes the plain path."""
        self.layers: list[KVCache] = self.empty_layers()
        self.tokens: list[int] = []
        self.lock = threading.Lock()
        self._kept_beside = False
        """Whether another cache, from which this one branched, keeps buffers that are copied."""

    def empty_layers(self) -> list[KVCache]:
        """A new cache a layer."""
        return self.step.make_cache() if self.step else self.network.make_cache(self.cache_format)

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what the cache has in common with `prompt`; returns how many tokens that is.

        At least the last token of `prompt` is left to compute: its logits are wanted.
        """
        return self.keep(prompt[:-1])

    def keep(self, tokens: Sequence[int]) -> int:
        """Keep the longest common prefix with `tokens`, drop the rest; returns its length.

        A rotating cache may have to drop more: what it returns to must be whole.
        """
        kept = 0
        for held, wanted in zip(self.tokens, tokens, strict=False):
            if held != wanted:
                break
            kept += 1
        return self.truncate(kept)

    def truncate(self, length: int) -> int:
        """Keep the first `length` tokens, or as many of them as can be; returns how many."""
        kept = self.layers[0].reach(length)
        whole = True
        for layer in self.layers:
            if beyond := layer.offset - kept:  # none in most steps, of which each comes here
                whole &= layer.trim(beyond) == beyond
        if not whole:  # an interrupted step has moved some windows on
            self.layers[:], kept = self.empty_layers(), 0
        del self.tokens[kept:]
        return kept

    def drop_uncommitted(self) -> None:
        """Forget what an interrupted step may have left beyond `tokens`."""
        self.truncate(len(self.tokens))

    def clear(self) -> None:
        """Forget everything, and give the memory back."""
        self.layers[:], self.tokens[:] = self.empty_layers(), []
        mx.clear_cache()

    def branch(self) -> PromptCache:
        """A cache that goes on from here while this one stays as it is, to the bit.

        Both share buffers: of rows behind its own tokens this one knows nothing, so only one
        branch at a time may be computed into, and this cache again once that is done with.
        """
        other = copy(self)
        other.layers, other.tokens = [copy(layer) for layer in self.layers], [*self.tokens]
        other._kept_beside = True
        return other

    def adopt(self, branch: PromptCache) -> None:
        """Go on where `branch` is."""
        self.layers[:], self.tokens[:] = branch.layers, branch.tokens

    def settle(self) -> None:
        """Compute what is under way, so that another thread can go on from here."""
        mx.eval([layer.state for layer in self.layers])

    def mark(self) -> None:
        """Note that the next prompt probably shares the tokens held now, and no more."""
        for layer in self.layers:
            layer.mark()
        if (lead := self.network.model.lead) is not None:
            lead.mark(self.layers)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Surround everything that computes into the cache; at its end the cache holds ``tokens``.

        After an error the layers are unknown, so all are dropped, and `OutOfMemoryError` replaces
        MLX's. An `OutOfMemoryError` that `require` raised beforehand drops nothing.
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
        """Check that the buffers can grow by `tokens`: a copied one takes twice its memory.

        Raises `OutOfMemoryError`. `fit.chunk_size` has counted the first buffers already.
        """
        first = self.layers[0]
        held = first.state[0].shape[2] if first.state else 0
        if held and self.cache_format.window is None and first.offset + tokens > held:
            count = len(self.tokens)
            larger = max(1.0, (first.offset + tokens) / held - 1) + self._kept_beside
            hint = "try --kv-bits 8, a shorter conversation (/clear) or a smaller model (/model)"
            require(int(larger * self.nbytes), f"at {count:,} tokens", hint)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' buffers."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def kind(self) -> str:
        """How keys and values are kept, in words."""
        return self.layers[0].kind
