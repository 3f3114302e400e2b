"""Extends a cache to a known prefix, in steps short enough to interrupt the work at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.engine.background import Stopped
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.nn.transformer import Qwen3Network

STEP_SECONDS = 0.04
"""Target seconds per step: a turn that interrupts the work waits for at most one step."""
SHORTEST, LONGEST = 16, 1024
"""Tokens per step, adapted to `STEP_SECONDS`; longer steps are faster per token."""


def warm(
    network: Qwen3Network,
    tokens: Sequence[int],
    cache: PromptCache,
    stopped: Stopped = lambda: False,
) -> int:
    """Make `cache` hold exactly `tokens`; returns how many had to be computed.

    The common prefix is kept, the rest dropped. `stopped` is asked between steps; if it returns
    True, the finished steps stay in the cache.
    """
    about_to_compute()  # before `filling`, which in a forked process can't even clear the cache
    kept, size = cache.keep(tokens), SHORTEST
    with cache.filling():
        while len(cache.tokens) < len(tokens) and not stopped():
            done = len(cache.tokens)
            began = time.perf_counter()
            prefill(network, tokens[done : done + size], cache)
            took = time.perf_counter() - began
            if took < STEP_SECONDS / 2:
                size = min(2 * size, LONGEST)
            elif took > STEP_SECONDS:
                size = max(size // 2, SHORTEST)
    return len(cache.tokens) - kept
