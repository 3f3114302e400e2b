"""A source whose weight files are fetched from the hub while it is read."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from qwen3_mlx.hub.remote_files import RemoteFiles
from qwen3_mlx.quantize.formats import Source, Weight


def streamed(source: Source, remote: RemoteFiles) -> Source:
    """`source` with weights that fetch their files; tied embeddings, needed twice, are pinned."""
    weights = tuple(_fetching(weight, remote) for weight in source.weights)
    if source.config.tie_word_embeddings or not source.config.head:
        first = next(weight for weight in weights if weight.path == "model.embed_tokens")
        remote.pin(info.file for part in first.parts for info in part.tensors)
    return replace(source, weights=weights, identity=remote.identity)


def _fetching(weight: Weight, remote: RemoteFiles) -> Weight:
    tensors = {info for part in weight.parts for info in part.tensors}
    needed = [(info.file, info.nbytes) for info in sorted(tensors, key=lambda t: t.file.name)]
    return replace(weight, fetch=partial(remote.require, needed))
