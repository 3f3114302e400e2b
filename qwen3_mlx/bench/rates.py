"""Measures prefill and decode rates of this package and mlx-lm on the same prompt."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import Sampling

GREEDY = Sampling(0.0, 1.0, 0, 0.0, 0.0, 1.0)


class Rates(NamedTuple):
    """Tokens per second."""

    prefill: float
    decode: float


def prompt(length: int, vocabulary: int) -> list[int]:
    """`length` deterministic token ids below `vocabulary`."""
    return [(7 * i * i + 3 * i) % vocabulary for i in range(length)]


def ours(network: Qwen3Network, ids: list[int], tokens: int) -> Rates:
    """One greedy run through the engine, as in a conversation."""
    cache = PromptCache(network)
    start = time.perf_counter()
    logits = prefill(network, ids, cache)
    assert logits is not None
    mx.eval(logits)
    read = time.perf_counter()
    decoder = Decoder(network, cache, Sampler(GREEDY, logits.shape[-1]), logits)
    for _ in range(2):  # the first fused step is traced here
        decoder.step()
    begin = time.perf_counter()
    for _ in range(tokens):
        decoder.step()
    end = time.perf_counter()
    return _rates(len(ids), read - start, tokens, end - begin)


def theirs(model: Any, ids: list[int], tokens: int) -> Rates:
    """One greedy run through mlx-lm's ``generate_step``."""
    from mlx_lm.generate import generate_step

    start = time.perf_counter()
    steps = generate_step(mx.array(ids, mx.uint32), model, max_tokens=tokens + 3)
    next(steps)
    read = time.perf_counter()
    for _ in range(2):
        next(steps)
    begin = time.perf_counter()
    for _ in range(tokens):
        next(steps)
    end = time.perf_counter()
    steps.close()
    return _rates(len(ids), read - start, tokens, end - begin)


def _rates(read: int, reading: float, written: int, writing: float) -> Rates:
    """The rates of a run; also clears MLX's cache, so that runs don't affect each other."""
    mx.synchronize()
    mx.clear_cache()
    return Rates(read / reading, written / writing)
