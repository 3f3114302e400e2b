"""A forward pass that holds one layer at a time: any checkpoint the converter reads, any size.

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
    """One text of T token ids on its way through the layers; `layers` of them are behind it."""

    def __init__(self, source: Source, ids: list[int]) -> None:
        """Begin before the first layer. Nothing is read yet."""
        self.source, self.ids = source, ids
        self.layers, self.x = 0, mx.zeros(0)
        self._weights = {weight.path: weight for weight in source.weights}
        self._dtype = compute_dtype(source)

    def step(self) -> None:
        """Go through the next layer, whose weights are dense in memory meanwhile."""
        self.begin()
        mx.eval(self.x)
        mx.clear_cache()

    def begin(self) -> None:
        """Go through the next layer, on the current stream, as soon as `x` is evaluated."""
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
        """The hidden states ``[T, C]`` behind the last norm."""
        config = self.source.config
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        norm.weight = _dense(self._weights["model.norm"], self._dtype)
        states = norm(self.x)[0]
        mx.eval(states)
        return states


def hidden_states(
    source: Source, ids: list[int], on_layer: Callable[[int], None] | None = None
) -> mx.array:
    """The hidden states ``[T, C]`` behind the last norm, for one text of T token ids."""
    forward = ForwardPass(source, ids)
    for index in range(source.config.num_hidden_layers):
        forward.step()
        if on_layer is not None:
            on_layer(index + 1)
    return forward.states()


def side_by_side(
    source: Source, result: Source, ids: list[int], on_layer: Callable[[int], None]
) -> tuple[mx.array, mx.array]:
    """The hidden states of both, each on a stream of its own: a processor's other core works too.

    Two layers are dense in memory at a time.
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
    """The logits of ``hidden [T, C]``, float32 ``[T, n]``: some of the vocabulary at a time.

    Where there is no head (an embedder's), the embedding stands in: any matrix tells two apart.
    `number` chooses one of the two streams to multiply on.
    """
    tied = source.config.tie_word_embeddings or not source.config.head
    path = "model.embed_tokens" if tied else "lm_head"
    weight = next(weight for weight in source.weights if weight.path == path)
    for (rows,) in packed_blocks(weight, None, compute_dtype(source)):
        with mx.stream(two_streams()[number]):
            logits = (hidden @ rows.T).astype(mx.float32)
        yield logits


def compute_dtype(source: Source) -> mx.Dtype:
    """What the checkpoint is computed in on this machine."""
    return backend.compute_dtype(source.dtype or mx.float32)[0]


def _dense(weight: Weight, dtype: mx.Dtype) -> mx.array:
    """A whole weight, unpacked, in its own shape."""
    weight.open_for_reading()
    parts = [part.open(dtype)(0, part.shape[0]) for part in weight.parts]
    array = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    return array.reshape(weight.shape)


def _embed(weight: Weight, ids: list[int], dtype: mx.Dtype) -> mx.array:
    """The rows of these tokens, read singly: the embedding is the largest matrix."""
    weight.open_for_reading()
    read = weight.parts[0].open(dtype)
    rows = {token: read(token, token + 1) for token in set(ids)}
    return mx.concatenate([rows[token] for token in ids])
