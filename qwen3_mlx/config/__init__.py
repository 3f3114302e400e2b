"""config.json as strictly checked, frozen values, and the quantization recipes. No MLX."""

from qwen3_mlx.config.network import Qwen3Config

__all__ = ["Qwen3Config"]
