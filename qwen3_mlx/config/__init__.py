"""config.json read strictly into frozen values, and the recipes that pack weights; never MLX."""

from qwen3_mlx.config.network import Qwen3Config

__all__ = ["Qwen3Config"]
