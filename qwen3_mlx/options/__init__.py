"""What a user may ask of a turn: sampling, thinking and its budget, forms, the cache's format."""

from qwen3_mlx.options.generation import (
    AS_COMPUTED,
    CODER,
    DEFAULT_MAX_TOKENS,
    LARGEST,
    NEVER_THINK,
    NOT_THINKING,
    THINKING,
    CacheFormat,
    Family,
    GenerationOptions,
    Sampling,
    check_context,
    preset,
    with_generation_config,
)

__all__ = [
    "AS_COMPUTED",
    "CODER",
    "DEFAULT_MAX_TOKENS",
    "LARGEST",
    "NEVER_THINK",
    "NOT_THINKING",
    "THINKING",
    "CacheFormat",
    "Family",
    "GenerationOptions",
    "Sampling",
    "check_context",
    "preset",
    "with_generation_config",
]
