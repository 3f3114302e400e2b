"""A forward pass over a checkpoint of any format and size that holds one layer in memory.

Packed weights are unpacked and multiplied as floats, which gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import qwen3_mlx.device.backend as backend

import mlx.core as mx
from mlx.utils import tree_unflatten

from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.norm import RMSNorm
from qwen3_mlx.nn.transformer import Block
from qwen3_mlx.quantize.formats import Source, Weight
from qwen3_mlx.quantize.pack import packed_blocks, two_streams


class ForwardPass:
    """A forward pass of T token ids; `layers` counts the finished layers."""

    def __init__(self, source: Source, ids: list[int]) -> None:
        """Start before the first layer; nothing is read yet."""
        self.source, self.ids = source, ids
        self.layers, self.x = 0, mx.zeros(0)
        self._weights = {weight.path: weight for weight in source.weights}
        self._dtype = compute_dtype(source)

    def step(self) -> None:
        """Compute the next layer, whose dense weights are in memory meanwhile."""
        self.begin()
        mx.eval(self.x)
        mx.clear_cache()

    def begin(self) -> None:
        """Build the next layer's graph on the current stream; evaluating `x` computes it."""
        if self.layers == 0:
            self.x = _embed(self._weights["model.embed_tokens"], self.ids, self._dtype)[None]
        block = Block(self.source.config, self.layers)
        prefix = f"model.layers.{self.layers}."
        found = [(path, w) for path, w in self._weights.items() if path.startswith(prefix)]
        named = [(f"{p.removeprefix(prefix)}.weight", _dense(w, self._dtype)) for p, w in found]
        block.update(tree_unflatten(named))
        choose_backend(block)
        self.x = block(self.x)
        self.layers += 1

    def states(self) -> mx.array:
        """The hidden states ``[T, C]`` after the last norm."""
        config = self.source.config
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        norm.weight = _dense(self._weights["model.norm"], self._dtype)
        states = norm(self.x)[0]
        mx.eval(states)
        return states


def hidden_states(
    source: Source, ids: list[int], on_layer: Callable[[int], None] | None = None
) -> mx.array:
    """The hidden states ``[T, C]`` after the last norm, for T token ids."""
    forward = ForwardPass(source, ids)
    for index in range(source.config.num_hidden_layers):
        forward.step()
        if on_layer is not None:
            on_layer(index + 1)
    return forward.states()


def side_by_side(
    source: Source, result: Source, ids: list[int], on_layer: Callable[[int], None]
) -> tuple[mx.array, mx.array]:
    """The hidden states of source and result, on separate streams to use two CPU cores.

    Two dense layers are in memory at a time.
    """
    passes = ForwardPass(source, ids), ForwardPass(result, ids)
    for index in range(source.config.num_hidden_layers):
        for forward, stream in zip(passes, two_streams(), strict=True):
            with mx.stream(stream):
                forward.begin()
        mx.eval([forward.x for forward in passes])
        mx.clear_cache()
        on_layer(index + 1)
    return passes[0].states(), passes[1].states()


def logits_blocks(source: Source, hidden: mx.array, number: int = 0) -> Iterator[mx.array]:
    """The logits of ``hidden [T, C]`` in blocks of the vocabulary, float32 ``[T, n]``.

    Without a head (an embedder) the embedding is used, since any matrix can expose a difference.
    number: which of the two streams multiplies.
    """
    tied = source.config.tie_word_embeddings or not source.config.head
    path = "model.embed_tokens" if tied else "lm_head"
    weight = next(weight for weight in source.weights if weight.path == path)
    for (rows,) in packed_blocks(weight, None, compute_dtype(source)):
        with mx.stream(two_streams()[number]):
            logits = (hidden @ rows.T).astype(mx.float32)
        yield logits


def compute_dtype(source: Source) -> mx.Dtype:
    """The dtype in which this machine computes the checkpoint."""
    return backend.compute_dtype(source.dtype or mx.float32)[0]


def _dense(weight: Weight, dtype: mx.Dtype) -> mx.array:
    """A whole weight, unpacked, in its shape."""
    weight.open_for_reading()
    parts = [part.open(dtype)(0, part.shape[0]) for part in weight.parts]
    array = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    return array.reshape(weight.shape)


def _embed(weight: Weight, ids: list[int], dtype: mx.Dtype) -> mx.array:
    """The tokens' rows, read one by one because the embedding is the largest matrix."""
    weight.open_for_reading()
    read = weight.parts[0].open(dtype)
    rows = {token: read(token, token + 1) for token in set(ids)}
    return mx.concatenate([rows[token] for token in ids])
