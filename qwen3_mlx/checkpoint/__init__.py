"""Checkpoints on disk: reading them strictly and lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3_mlx.checkpoint.load import load_network

__all__ = ["load_network"]


def __getattr__(name: str) -> Any:
    # Headers can be read without MLX, so MLX is imported with the loader only.
    if name == "load_network":
        from qwen3_mlx.checkpoint.load import load_network

        return load_network
    raise AttributeError(name)
