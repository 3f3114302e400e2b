"""Builds a network and finds the tensors of all its parameters, without reading any."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.checkpoint.match import (
    Tensors,
    difference_error,
    is_unused,
    named_tensors,
    with_head_or_without,
)
from qwen3_mlx.checkpoint.raw import FLOATS
from qwen3_mlx.checkpoint.share_files import own_tensors, read_shares
from qwen3_mlx.checkpoint.shared import share_sources
from qwen3_mlx.checkpoint.sources import Sources, sources_of
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.quantization import Quantization
from qwen3_mlx.config.share import WHOLE_NETWORK, Share
from qwen3_mlx.config.shares import Shares
from qwen3_mlx.errors import ConfigError
from qwen3_mlx.nn.transformer import Qwen3Network

Unread = tuple[Qwen3Network, Sources, Qwen3Config]
"""A network, the tensors of each of its parameters, and its configuration."""


def unread_network(path: Path, context: int | None, share: Share) -> Unread:
    """The network of `share` of the checkpoint directory `path`, for `context` positions.

    Raises as `load_network`.
    """
    config = Qwen3Config.from_dir(path)
    if context is not None:
        config = config.for_context(context)
    shares = read_shares(path)
    read = _whole if shares is None else partial(_from_its_file, shares)
    return read(path, config, share)


def _whole(path: Path, config: Qwen3Config, share: Share) -> Unread:
    """As `unread_network`, from a whole checkpoint."""
    tensors = named_tensors(checkpoint_tensors(path))
    config = with_head_or_without(config, tensors, path)
    sources = sources_of(tensors, config)
    network = _empty(config, sources)
    _check(network, sources, tensors, config)
    if share.size > 1:
        sources = share_sources(sources, share, config)
        config = share.config(config)
        network = _empty(config, sources, share)
    return network, sources, config


def _from_its_file(shares: Shares, path: Path, config: Qwen3Config, share: Share) -> Unread:
    """As `unread_network`, from this machine's file of a split checkpoint."""
    stored = own_tensors(path, shares, share)
    config = with_head_or_without(config, stored, path)
    tensors = {own: stored[name] for name, own in share.names(config, stored).items()}
    config = share.config(config)
    sources = sources_of(tensors, config)
    network = _empty(config, sources, share)
    _check(network, sources, tensors, config)
    return network, sources, config


def _empty(config: Qwen3Config, sources: Sources, share: Share = WHOLE_NETWORK) -> Qwen3Network:
    """A network of this configuration, packed as its tensors; nothing is computed."""
    network = Qwen3Network(config)
    if config.quantization is not None:
        _quantize(network, config.quantization, sources)
    if share.pipeline and share.size > 1:
        network.become_stage(share.rank, share.size)
    return network


def _quantize(network: Qwen3Network, quantization: Quantization, sources: Sources) -> None:
    """Replace every module whose tensors have scales by its packed form, lazily."""

    def packing(path: str, module: nn.Module) -> bool | dict[str, Any]:
        spec = quantization.spec(path)
        if spec is None or f"{path}.scales" not in sources:
            return False
        return {"bits": spec.bits, "group_size": spec.group_size, "mode": spec.mode}

    try:
        nn.quantize(network, class_predicate=packing)
    except (ValueError, RuntimeError) as error:
        raise ConfigError("config.json: quantization", got=str(error)) from None


def _check(network: Qwen3Network, sources: Sources, tensors: Tensors, config: Qwen3Config) -> None:
    """Raise one `CheckpointError` that lists the first five differences."""
    missing, faults = [], []
    parameters = dict(tree_flatten(network.parameters()))
    used = set()
    for name, parameter in parameters.items():
        if name not in sources:
            missing.append(f"{name} {list(parameter.shape)}")
            continue
        used |= set(sources[name])
        if fault := _fault(sources[name], parameter):
            faults.append(f"{name} {fault}")
    unused = (n for n, info in tensors.items() if info not in used and not is_unused(n, config))
    surplus = list(dict.fromkeys(tensors[name].name for name in unused))
    if missing or faults or surplus:
        raise difference_error(missing, faults, surplus)


def _fault(infos: list[TensorInfo], parameter: mx.array) -> str | None:
    """The mismatch between tensors and `parameter`, or None."""
    shape = infos[0].shape if len(infos) == 1 else (len(infos), *infos[0].shape)
    ragged = any(info.shape != infos[0].shape for info in infos)
    if ragged or shape != tuple(parameter.shape):
        got = "ragged experts" if ragged else list(shape)
        return f"has shape {got}, expected {list(parameter.shape)}"
    packed = not mx.issubdtype(parameter.dtype, mx.floating)
    allowed = {"U32", "U8"} if packed else set(FLOATS)
    odd = next((info.dtype for info in infos if info.dtype not in allowed), None)
    return f"has dtype {odd}, expected {' or '.join(sorted(allowed))}" if odd else None
