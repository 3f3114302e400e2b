"""Bringing a cache up to a known prefix, in steps small enough to be given up at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qwen3_mlx.engine.background import Stopped
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.nn.transformer import Qwen3Network

STEP_SECONDS = 0.04
"""Aim for a step: a turn that interrupts the work waits for one step at most."""
SHORTEST, LONGEST = 16, 1024
"""Tokens of a step; more are faster a token, and how many fit the time is found as it goes."""


def warm(
    network: Qwen3Network,
    tokens: Sequence[int],
    cache: PromptCache,
    stopped: Stopped = lambda: False,
) -> int:
    """Make `cache` hold `tokens` exactly; returns how many had to be computed.

    What it has in common with them is kept, the rest dropped. If `stopped` says yes between two
    steps, what is done by then stays.
    """
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
