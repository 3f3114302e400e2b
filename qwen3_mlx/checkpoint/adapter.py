"""Reads LoRA adapters of PEFT and mlx-lm, and attaches them to a network's layers.

Every tensor of an adapter must match a layer of the network: an adapter of another model is
refused before the model's weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from qwen3_mlx.checkpoint import adapter_mlx, adapter_peft
from qwen3_mlx.checkpoint.adapter_parts import CONFIG, Update, refusal
from qwen3_mlx.checkpoint.fingerprint import digest_of, stamp_of
from qwen3_mlx.checkpoint.headers import read_header
from qwen3_mlx.checkpoint.raw import read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import ModelNotFoundError
from qwen3_mlx.files import expanded, read_json
from qwen3_mlx.hub.resolve import is_repo
from qwen3_mlx.nn.lora import LoRAExpertLinear, LoRALinear

PEFT_FILE, MLX_FILE = "adapter_model.safetensors", "adapters.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter that matches a model, and its update of each matrix."""

    directory: Path
    form: str
    """``PEFT`` or ``mlx-lm``."""
    files: tuple[Path, Path]
    """Its configuration and its weights."""
    updates: Mapping[str, Update]
    """The updates by module path."""
    copies: Mapping[str, TensorInfo]
    """Copies of the model's own weights in the adapter's file, by module path."""

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """`fingerprint.stamp` of the adapter's files. Raises `OSError`."""
        return stamp_of(self.files)

    def fingerprint(self) -> str:
        """`fingerprint.fingerprint` of the adapter's files. Raises `OSError`."""
        return digest_of(self.files[:1], self.files[1:])


def read_adapter(path: str | Path, config: Qwen3Config) -> Adapter:
    """The adapter in the directory `path`, for a model of this `config`.

    Reads adapter_config.json and the header of the weights. Raises `ModelNotFoundError` if there is
    no adapter, `ConfigError` for unsupported settings, and `CheckpointError` for tensors that don't
    match its configuration or the model.
    """
    directory = expanded(path)
    if directory.is_file():
        raise _no_adapter(directory, False)
    values = read_json(directory / CONFIG)
    present = [name for name in (PEFT_FILE, MLX_FILE) if (directory / name).is_file()]
    if not values or not present:
        raise _no_adapter(directory, bool(values))
    peft = "peft_type" in values
    weights_file = PEFT_FILE if peft else MLX_FILE
    if weights_file not in present:
        raise refusal(
            "the adapter's files", f"{CONFIG} and {present[0]}", f"{weights_file} beside it"
        )
    tensors = read_header(directory / weights_file)
    reader = adapter_peft if peft else adapter_mlx
    copies = adapter_peft.copies(tensors, config) if peft else {}
    updates = reader.read(values, tensors, config)
    form = "PEFT" if peft else "mlx-lm"
    return Adapter(directory, form, (directory / CONFIG, directory / weights_file), updates, copies)


def _no_adapter(directory: Path, configured: bool) -> ModelNotFoundError:
    has = f"a directory with {PEFT_FILE} (PEFT) or {MLX_FILE} (mlx-lm) and {CONFIG}"
    hint = None
    if (directory / "adapter_model.bin").is_file():
        hint = "adapter_model.bin is a pickle, which can run code: save it as safetensors with PEFT"
    elif directory.is_file():
        hint = f"give the directory that holds it: {directory.parent}"
    elif not directory.is_dir():
        hint = "there is no such directory"
        if is_repo(str(directory)):
            hint += f"; one from the hub: hf download {directory} fetches it, and says to where"
    elif configured:
        hint = "its weights are missing: fetch it again"
    return ModelNotFoundError("no adapter", got=str(directory), expected=has, hint=hint)


def attach(network: nn.Module, adapter: Adapter) -> None:
    """Wrap the adapted layers of `network`, with the factors in the compute dtype.

    Call `choose_backend` afterwards. Raises `CheckpointError` if the file can't be read.
    """
    modules = dict(network.named_modules())
    for path, info in adapter.copies.items():
        if path in modules:
            _check_copy(path, modules[path], info)
    dtype = backend.compute_dtype(mx.float32)[0]
    wrapped = []
    for path, update in adapter.updates.items():
        base = modules[path]
        a, b = (factor.astype(_dtype(base, dtype)) for factor in update.factors())
        mx.eval(a, b)
        kind = LoRAExpertLinear if len(update.shape) == 3 else LoRALinear
        wrapped.append((path, kind(base, a, b)))
    network.update_modules(tree_unflatten(wrapped))
    network.eval()


def _check_copy(path: str, module: nn.Module, info: TensorInfo) -> None:
    """Raise `CheckpointError` unless the copy equals the model's weight; packed ones pass."""
    if "scales" in module:
        return
    if not mx.array_equal(read_tensor(info).astype(module.weight.dtype), module.weight).item():
        hint = "it was trained too: merge it into the model with PEFT's merge_and_unload"
        raise refusal(f"the adapter brings its own {path}", info.name, "the model's weights", hint)


def _dtype(base: nn.Module, default: mx.Dtype) -> mx.Dtype:
    """The dtype in which a layer computes: that of its weights or scales."""
    for name in ("scales", "weight"):
        if name in base and mx.issubdtype(base[name].dtype, mx.floating):
            dtype: mx.Dtype = base[name].dtype
            return dtype
    return default
