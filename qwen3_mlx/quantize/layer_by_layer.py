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
from qwen3_mlx.quantize.pack import packed_blocks


def hidden_states(
    source: Source, ids: list[int], on_layer: Callable[[int], None] | None = None
) -> mx.array:
    """The hidden states ``[T, C]`` behind the last norm, for one text of T token ids."""
    weights = {weight.path: weight for weight in source.weights}
    dtype = compute_dtype(source)
    config = source.config
    x = _embed(weights["model.embed_tokens"], ids, dtype)[None]
    for index in range(config.num_hidden_layers):
        block = Block(config, index)
        prefix = f"model.layers.{index}."
        found = [(path, w) for path, w in weights.items() if path.startswith(prefix)]
        named = [(f"{path.removeprefix(prefix)}.weight", _dense(w, dtype)) for path, w in found]
        block.update(tree_unflatten(named))
        choose_backend(block)
        x = block(x)
        mx.eval(x)
        del block, named
        mx.clear_cache()
        if on_layer is not None:
            on_layer(index + 1)
    norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
    norm.weight = _dense(weights["model.norm"], dtype)
    states = norm(x)[0]
    mx.eval(states)
    return states


def logits_blocks(source: Source, hidden: mx.array) -> Iterator[mx.array]:
    """The logits of ``hidden [T, C]``, float32 ``[T, n]``: some of the vocabulary at a time.

    Where there is no head (an embedder's), the embedding stands in: any matrix tells two apart.
    """
    tied = source.config.tie_word_embeddings or not source.config.head
    path = "model.embed_tokens" if tied else "lm_head"
    weight = next(weight for weight in source.weights if weight.path == path)
    for (rows,) in packed_blocks(weight, None, compute_dtype(source)):
        yield (hidden @ rows.T).astype(mx.float32)


def compute_dtype(source: Source) -> mx.Dtype:
    """What the checkpoint is computed in on this machine."""
    return backend.compute_dtype(source.dtype or mx.float32)[0]


def _dense(weight: Weight, dtype: mx.Dtype) -> mx.array:
    """A whole weight, unpacked, in its own shape."""
    parts = [part.open(dtype)(0, part.shape[0]) for part in weight.parts]
    array = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    return array.reshape(weight.shape)


def _embed(weight: Weight, ids: list[int], dtype: mx.Dtype) -> mx.array:
    """The rows of these tokens, read singly: the embedding is the largest matrix."""
    read = weight.parts[0].open(dtype)
    rows = {token: read(token, token + 1) for token in set(ids)}
    return mx.concatenate([rows[token] for token in ids])
