"""Which tensors every parameter of the network comes from."""

from __future__ import annotations

from functools import partial

from qwen3_mlx.checkpoint.match import Tensors, find_parameter
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes

Sources = dict[str, list[TensorInfo]]
"""For each parameter of the network, the tensor it comes from, or one for each expert."""


def sources_of(tensors: Tensors, config: Qwen3Config) -> Sources:
    """Find the tensors of every parameter; experts in the order of their numbers."""
    sources: Sources = {}
    for path, _ in weight_shapes(config):
        for kind in ("weight", "scales", "biases"):
            found = find_parameter(partial(_tensor, tensors, kind), path, config.num_experts)
            if found:
                sources[f"{path}.{kind}"] = list(found)
    return sources


def _tensor(tensors: Tensors, kind: str, path: str) -> TensorInfo | None:
    return tensors.get(f"{path}.{kind}")
