"""Reads checkpoints from disk, strictly and lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3_mlx.checkpoint.load import load_network

__all__ = ["load_network"]


def __getattr__(name: str) -> Any:
    # Reading headers needs no MLX, so only the loader imports it.
    if name == "load_network":
        from qwen3_mlx.checkpoint.load import load_network

        return load_network
    raise AttributeError(name)
