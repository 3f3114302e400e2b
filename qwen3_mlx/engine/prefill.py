"""Reads a prompt: many tokens per forward pass, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.token_ids import check_token_ids
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.nn.transformer import Qwen3Network

PromptProgress = Callable[[int, int], object]
"""Called after every chunk with the number of finished tokens and the total."""


def prefill(
    network: Qwen3Network,
    tokens: Sequence[int],
    cache: PromptCache,
    chunk: int = 2048,
    on_progress: PromptProgress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> mx.array | None:
    """Append `tokens` to `cache`; returns the last token's logits ``[1, V]``, lazy.

    `chunk` limits the tokens of one forward pass, and so the scratch memory. `stopped` is asked
    between chunks; if it returns True, the result is None and finished chunks stay in the cache.
    The head is applied to the last token only. Raises `OptionError` for an id without a row.
    """
    about_to_compute()
    check_token_ids(tokens, network.vocab_size)
    for start in range(0, len(tokens), chunk):
        if start and stopped():
            return None
        ids = list(tokens[start : start + chunk])
        cache.make_room(len(ids))
        hidden = network.model(mx.array([ids], mx.uint32), cache.layers)  # [1, L, C]
        mx.eval([layer.state for layer in cache.layers])
        cache.tokens.extend(ids)
        if on_progress is not None:
            on_progress(len(ids) + start, len(tokens))
        if start + chunk < len(tokens):
            mx.clear_cache()  # the next steps don't need a full chunk's scratch memory
    return network.head(hidden[:, -1])


def require_numbers(logits: mx.array) -> None:
    """Raise `CheckpointError` if a prompt's last logits contain NaN: the answer would be "!!!!".

    It runs once per prompt, before the first draw, so tokens cost nothing more.
    """
    if mx.isnan(logits).any().item():
        raise CheckpointError(
            "the network computes NaN",
            got="no numbers among the logits behind the prompt",
            hint="qwen3-mlx doctor MODEL reads the weights for NaN; where they are sound, try"
            " QWEN3_MLX_KERNELS=off",
        )
