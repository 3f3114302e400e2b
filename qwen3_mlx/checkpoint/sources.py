"""Finds the stored tensors of every parameter of the network."""

from __future__ import annotations

from functools import partial

from qwen3_mlx.checkpoint.match import Tensors, find_parameter
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes

Sources = dict[str, list[TensorInfo]]
"""The stored tensor of each parameter, or one per expert."""


def sources_of(tensors: Tensors, config: Qwen3Config) -> Sources:
    """The tensors of every parameter that has any; experts in order."""
    sources: Sources = {}
    for path, _ in weight_shapes(config):
        for kind in ("weight", "scales", "biases"):
            found = find_parameter(partial(_tensor, tensors, kind), path, config.num_experts)
            if found:
                sources[f"{path}.{kind}"] = list(found)
    return sources


def _tensor(tensors: Tensors, kind: str, path: str) -> TensorInfo | None:
    return tensors.get(f"{path}.{kind}")
