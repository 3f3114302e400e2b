"""Recognises MLX's errors of running out of memory, and translates them."""

from __future__ import annotations

import re

from qwen3_mlx.errors import OutOfMemoryError

# CPU and Metal: "[malloc] Unable to allocate …", "[metal::malloc] Attempting to allocate … greater
# than the maximum allowed buffer size"; a Metal command buffer: "Insufficient Memory
# (…ErrorOutOfMemory)"; CUDA: "cudaMallocAsync(…) failed: out of memory".
_TEXT = re.compile(r"malloc|unable to allocate|out ?of ?memory|insufficient memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is MLX's or Python's error of running out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _TEXT.search(str(error)) is not None
    )


def out_of_memory(error: BaseException, tokens: int, packed: bool) -> OutOfMemoryError:
    """The error of running out of memory at `tokens`; `packed`: leave out the --kv-bits hint."""
    smaller = "" if packed else "--kv-bits 8 (half the memory a token), "
    return OutOfMemoryError(
        f"out of memory at {tokens:,} tokens",
        got=str(error).partition("\n")[0] or type(error).__name__,
        hint=f"try {smaller}a shorter conversation (/clear), a smaller model, or end other"
        " programs; the conversation is kept, its keys and values were given back",
    )
