"""Reads headers of GGUF files on the hub by ranged requests (megabytes, mostly vocabulary)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.gguf import describe as gguf
from qwen3_mlx.gguf.header import MAX_HEADER, GgufFile, TooShort, parse
from qwen3_mlx.gguf.model import join
from qwen3_mlx.hub.cache import Source
from qwen3_mlx.hub.description import Description, Tensor
from qwen3_mlx.hub.ranged import first_bytes

_FIRST = 2**23
"""Bytes of the first request; Qwen3's header has 6 MB."""


def describe(source: Source, commit: str, names: Sequence[str]) -> Description:
    """Config and tensors of the GGUF model in the files `names`. Raises the hub's errors."""
    paths = [Path(name) for name in names]
    model = join(paths, [_header(source, commit, name) for name in names])
    tensors = {}
    for tensor, kind, dtype, shape in gguf.as_loaded(model.tensors):
        nbytes = math.prod(shape) * (2 if dtype in ("F16", "BF16") else 4)
        tensors[f"{tensor.name}.{kind}"] = Tensor(dtype, shape, nbytes)
    where = f"{source.repo}, {paths[0].name} (on the hub, not downloaded)"
    return Description(where, gguf.config(model), tensors)


def _header(source: Source, commit: str, name: str) -> GgufFile:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.repo, name, revision=commit)
    size = get_hf_file_metadata(url).size or 0
    count = min(_FIRST, size)
    while True:
        data = first_bytes(url, count)
        try:
            return parse(data, size, Path(name))
        except TooShort:
            if count >= min(size, MAX_HEADER):
                raise CheckpointError(
                    f"{name} ends within its header", got=f"{size} bytes"
                ) from None
            count = min(2 * count, size)
