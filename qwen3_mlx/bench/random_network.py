"""Networks of published shapes with random weights, to measure speed without a download.

mlx-lm's model class can hold the same arrays, so both sides use one set of weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.hub.releases import SIZES, Size
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network

SHAPES = {name.lower().removeprefix("coder-"): size for name, size in SIZES.items()} | {
    "tiny": Size(2, 256, 4, 2, 512),
    "tiny-moe": Size(2, 256, 4, 2, 512, False, 16, 4, 128),
}
"""The published sizes, and two small ones for trying a script."""

RECIPES = {"4bit": (4, 64), "8bit": (8, 64), "bf16": None}
"""mlx-lm's default recipes (bits, group size), with routers in 8 bits."""


def config_values(shape: str, recipe: str = "bf16", layers: int | None = None) -> dict[str, Any]:
    """The config.json of `shape` in `recipe`, cut to its first `layers` layers."""
    values = SHAPES[shape].config()
    depth = values["num_hidden_layers"] = layers or values["num_hidden_layers"]
    if shape.startswith("tiny"):
        values["vocab_size"] = 1024
    if packing := RECIPES[recipe]:
        bits, group = packing
        routers = {f"model.layers.{i}.mlp.gate": {"bits": 8, "group_size": 64}
                   for i in range(depth if SHAPES[shape].num_experts else 0)}  # fmt: skip
        values["quantization"] = {"bits": bits, "group_size": group} | routers
    return values


def network(config: Qwen3Config) -> Qwen3Network:
    """A network of `config` with random weights, on this machine's device."""
    net = Qwen3Network(config)
    _pack(net, config)
    mx.random.seed(0)
    dtype, _ = backend.compute_dtype(mx.bfloat16)
    scales: dict[str, mx.array] = {}
    lazy: dict[str, mx.array] = dict(tree_flatten(net.parameters()))
    for path, weight in lazy.items():  # none of these is ever computed
        value = _random(path, weight, dtype, scales)
        net.update(tree_unflatten([(path, value)]))
        mx.eval(value)
    mx.clear_cache()
    net.eval()
    choose_backend(net)
    return net


def _pack(net: nn.Module, config: Qwen3Config) -> None:
    quantization = config.quantization
    if quantization is None:
        return

    def predicate(path: str, module: nn.Module) -> bool | dict[str, int]:
        spec = quantization.spec(path) if hasattr(module, "to_quantized") else None
        return {"bits": spec.bits, "group_size": spec.group_size} if spec else False

    nn.quantize(net, class_predicate=predicate)


def _random(path: str, like: mx.array, dtype: mx.Dtype, scales: dict[str, mx.array]) -> mx.array:
    """Random bits, scales for weights with standard deviation 1/√K, and centring biases."""
    name, _, kind = path.rpartition(".")
    if like.dtype == mx.uint32:
        return _bits(like.shape)
    if kind == "scales":
        columns = like.shape[-1] * 64
        value = (0.5 + _bits(like.shape) * 2.0**-32) / (4.6 * columns**0.5)
        scales[name] = value.astype(dtype)
        return scales[name]
    if kind == "biases":
        return scales.pop(name) * -7.5
    if "norm" in path:
        return mx.ones(like.shape, dtype)
    return (mx.random.normal(like.shape) * like.shape[-1] ** -0.5).astype(dtype)


def _bits(shape: Sequence[int]) -> mx.array:
    """Hashed counters, random enough here and much faster to generate."""
    words = mx.arange(math.prod(shape), dtype=mx.uint32) * 0x9E3779B1
    words = (words ^ (words >> 15)) * 0x85EBCA77
    return (words ^ (words >> 13)).reshape(shape)


def mlx_lm_twin(net: Qwen3Network, values: dict[str, Any]) -> nn.Module:
    """mlx-lm's model of config.json `values` with the same arrays."""
    module = import_module(f"mlx_lm.models.{values['model_type']}")
    twin: nn.Module = module.Model(module.ModelArgs.from_dict(values))
    _pack(twin, Qwen3Config.from_dict(values))
    weights: dict[str, mx.array] = dict(tree_flatten(net.parameters()))
    twin.load_weights(list(weights.items()), strict=True)
    twin.eval()
    return twin


def bytes_per_token(net: Qwen3Network, config: Qwen3Config, context: int) -> int:
    """Bytes read per decoded token: active weights, and keys and values of `context`."""
    total = 0
    weights: dict[str, mx.array] = dict(tree_flatten(net.parameters()))
    for path, weight in weights.items():
        if "embed_tokens" in path and "lm_head" in net:
            continue
        share = weight.nbytes
        if "switch_mlp" in path:
            share = share * config.num_experts_per_tok // config.num_experts
        total += share
    width = 2 * len(net.layers) * config.num_key_value_heads * config.head_dim
    return total + context * width * net.model.norm.weight.dtype.size


def bandwidth(gigabytes: float | None = None) -> float:
    """Bytes read and written per second by a large addition, the best of 6."""
    import time

    if gigabytes is None:
        gigabytes = 0.5 if backend.device() == "cpu" else 2.0
    x = _bits((int(gigabytes * 2**30) // 8,))
    mx.eval(x)
    best = 0.0
    for _ in range(6):
        start = time.perf_counter()
        mx.eval(x + 1)
        best = max(best, 2 * x.nbytes / (time.perf_counter() - start))
    mx.clear_cache()
    return best
