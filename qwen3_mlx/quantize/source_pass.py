"""Computes the source's forward pass while its fetched files are being converted.

A layer is computed once its matrices are written. The state is saved beside the journal, so a
resumed conversion fetches no file twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.quantize.formats import Source
from qwen3_mlx.quantize.layer_by_layer import ForwardPass


class SourcePass:
    """A forward pass through the source that follows the conversion."""

    def __init__(self, source: Source, ids: list[int], file: Path, key: str) -> None:
        """Resume from `file` if it belongs to the conversion `key`."""
        self.forward, self.file, self.key = ForwardPass(source, ids), file, key
        self._left = [
            {w.path for w in source.weights if w.path.startswith(f"model.layers.{n}.")}
            for n in range(source.config.num_hidden_layers)
        ]
        for layer in self._left:
            layer -= {path for path in layer if path.endswith("norm")}
        self._restore()

    def written(self, path: str) -> None:
        """Note that the weight at `path` was written, and compute the completed layers."""
        for layer in self._left:
            layer.discard(path)
        while self.forward.layers < len(self._left) and not self._left[self.forward.layers]:
            self.forward.step()

    def save(self) -> None:
        """Save the current state, if any layer is computed."""
        if self.forward.layers:
            part = self.file.with_name(f".{self.file.name}.part.safetensors")
            metadata = {"key": self.key, "layers": str(self.forward.layers)}
            mx.save_safetensors(str(part), {"x": self.forward.x}, metadata)
            part.replace(self.file)

    def states(self) -> mx.array:
        """The hidden states ``[T, C]`` after the last norm."""
        while self.forward.layers < len(self._left):
            self.forward.step()
        return self.forward.states()

    def _restore(self) -> None:
        try:
            loaded: Any = mx.load(str(self.file), return_metadata=True)
            arrays, metadata = loaded
            same = metadata["key"] == self.key and arrays["x"].shape[1] == len(self.forward.ids)
            layers = int(metadata["layers"])
        except (RuntimeError, KeyError, ValueError, IndexError):
            return
        if same and 0 < layers <= len(self._left):
            mx.eval(arrays["x"])
            self.forward.x, self.forward.layers = arrays["x"], layers
