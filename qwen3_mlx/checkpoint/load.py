"""Loads a network, after matching every tensor to a parameter.

Weights are evaluated layer by layer, so the memory peak stays near the final size. The next layer
starts while one is being read, because waiting for each would leave a core idle at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import qwen3_mlx.device.backend as backend

import mlx.core as mx
from mlx.utils import tree_unflatten

from qwen3_mlx.checkpoint import mapped
from qwen3_mlx.checkpoint.gguf_read import GgufReader
from qwen3_mlx.checkpoint.match import by_layer
from qwen3_mlx.checkpoint.raw import FLOATS, read_tensor
from qwen3_mlx.checkpoint.shared import read_part
from qwen3_mlx.checkpoint.sources import Sources
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.checkpoint.unread import unread_network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import WHOLE_NETWORK, Share
from qwen3_mlx.device.out_of_memory import is_out_of_memory
from qwen3_mlx.errors import CheckpointError, gb
from qwen3_mlx.files import occupy_standard_descriptors
from qwen3_mlx.fit import guard
from qwen3_mlx.nn import ahead
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options.callback import callback


def load_network(
    path: str | Path,
    *,
    context: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    force: bool = False,
    share: Share = WHOLE_NETWORK,
) -> tuple[Qwen3Network, Qwen3Config]:
    """Load the network of the checkpoint directory `path` (config.json and safetensors).

    context: positions to support, with YaRN if necessary. on_progress: called with (bytes done,
    total bytes). share: the part to read; the returned configuration is then that part's.
    Raises `ConfigError`, `ContextError`, `OptionError` or `CheckpointError`; nothing is loaded
    unless every tensor exists with the right shape. Unless `force`, raises `OutOfMemoryError`
    before a layer that doesn't fit into memory.
    """
    callback("on_progress", on_progress)
    occupy_standard_descriptors()  # a daemon may have closed them
    network, sources, config = unread_network(Path(path), context, share)
    if network.model.stage is None:
        norm = sources["model.norm.weight"]
        ahead.begin(network, _target(norm) or mx.float32)
    _materialise(network, sources, on_progress, force)
    network.eval()
    choose_backend(network)
    return network, config


def _materialise(
    network: Qwen3Network,
    sources: Sources,
    on_progress: Callable[[int, int], None] | None,
    force: bool,
) -> None:
    total = sum(map(_stored, sources.values()))
    done = 0

    def finish(layer: _Layer) -> None:
        nonlocal done
        with _reading():
            mx.eval(layer.arrays)
        done += layer.stored
        if on_progress is not None:
            on_progress(done, total)

    before: _Layer | None = None
    reader = _Reader()
    for names in by_layer(sources):
        layer = _Layer([sources[name] for name in names])
        if before is not None and not before.leaves_room_for(layer):
            finish(before)
            before = None
        if not force:  # another process may have taken memory since the load began
            _require(layer.nbytes + (before.nbytes if before else 0), done, total)
        reader.begin(layer)
        network.update(tree_unflatten(list(zip(names, layer.arrays, strict=True))))
        if before is not None:
            finish(before)
        before = layer
    if before is not None:
        finish(before)


@contextmanager
def _reading() -> Iterator[None]:
    """Translate MLX's errors of reading files in the block to `CheckpointError`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            "the weights can't be read",
            got=str(error).partition("\n")[0],
            hint="fetch or convert the model again",
        ) from None


@dataclass(slots=True)
class _Layer:
    """A layer's tensors and, once reading has begun, the arrays made of them."""

    sources: list[list[TensorInfo]]
    arrays: list[mx.array] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the layer in memory."""
        return sum(_nbytes(infos) for infos in self.sources)

    @property
    def stored(self) -> int:
        """Bytes of the layer in the files."""
        return sum(map(_stored, self.sources))

    @property
    def passing(self) -> int:
        """Bytes held only while reading: tensors that are stacked or cast."""
        return sum(
            _stored(infos) * ((len(infos) > 1) + (_nbytes(infos) != _stored(infos)))
            for infos in self.sources
        )

    def leaves_room_for(self, after: _Layer) -> bool:
        """Whether both layers may be read at once: their temporary bytes are at most a layer's."""
        return self.passing + after.passing <= max(self.nbytes, after.nbytes)


def _require(nbytes: int, done: int, total: int) -> None:
    """Raise `OutOfMemoryError` unless `nbytes` for the layers being read are available."""
    hint = (
        f"close other programs or models, or see what fits: qwen3-mlx info; {guard.CHECK}=off"
        " loads all the same"
    )
    doing = f"while loading, {gb(done)} of {gb(total)} read"
    guard.require(nbytes, doing, hint)


def _target(infos: list[TensorInfo]) -> mx.Dtype | None:
    """The compute dtype of float weights; None for packed weights, which aren't cast."""
    stored = FLOATS.get(infos[0].dtype)
    return None if stored is None else backend.compute_dtype(stored)[0]


def _stored(infos: list[TensorInfo]) -> int:
    """Bytes in the files of these tensors."""
    return sum(info.nbytes for info in infos)


def _nbytes(infos: list[TensorInfo]) -> int:
    """Bytes in memory of the parameter made of these tensors."""
    target = _target(infos)
    if target is None:
        return _stored(infos)
    return target.size * sum(math.prod(info.shape) for info in infos)


class _Reader:
    """Returns a checkpoint's tensors as lazy arrays."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[str, mx.array]] = {}
        self._maps = mapped.Maps() if mapped.state().on else None
        self._gguf = GgufReader()

    def begin(self, layer: _Layer) -> None:
        """Start reading a layer into arrays of the compute dtype."""
        layer.arrays = [self._parameter(infos) for infos in layer.sources]
        with _reading():
            mx.async_eval(layer.arrays)

    def _parameter(self, infos: list[TensorInfo]) -> mx.array:
        arrays = [self._tensor(info) for info in infos]
        array = arrays[0] if len(arrays) == 1 else mx.stack(arrays)
        target = _target(infos)
        return array if target is None else array.astype(target)

    def _tensor(self, info: TensorInfo) -> mx.array:
        if info.made_from is not None:
            return self._gguf.read(info)
        if info.part is not None:
            return read_part(info)
        if info.part_of_tensor:  # MLX reads whole tensors only
            return read_tensor(info)
        if self._maps is not None and (array := self._maps.adopt(info)) is not None:
            return array
        if info.file not in self._files:
            try:
                self._files[info.file] = mx.load(str(info.file))  # type: ignore[assignment]  # a dict, for safetensors
            except RuntimeError as error:
                raise CheckpointError(f"{info.file.name} can't be read", got=str(error)) from None
        # Popped, because the dictionary would keep the bytes alive after they are read.
        return self._files[info.file].pop(info.name)
