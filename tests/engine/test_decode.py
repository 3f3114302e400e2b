"""The pipeline: what has been started when a token is handed out, and what the cache holds."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.options import CacheFormat, Sampling
from tests import tiny
from tests.oracle import assert_close

GREEDY = Sampling(temperature=0, top_p=1, top_k=0)
PROMPT = [1, 2, 3]


def start(seed: int = 77, sampling: Sampling = GREEDY, draws: int = 0) -> Decoder:
    network, _ = tiny.network(seed)
    cache = PromptCache(network)
    logits = prefill(network, PROMPT, cache)
    assert logits is not None
    return Decoder(network, cache, Sampler(sampling, 24, PROMPT, draws), logits)


def test_the_next_step_is_started_before_a_token_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = start()
    order: list[str] = []
    begin = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *a: (order.append("started"), begin(*a))[1])

    class Tokens(list[int]):
        def append(self, token: int) -> None:
            order.append("read")
            super().append(token)

    decoder.cache.tokens = Tokens(decoder.cache.tokens)
    for _ in range(3):
        decoder.step()
    assert order == ["started", "read"] * 3


def test_injected_tokens_count_as_generated_for_the_penalties() -> None:
    strong = Sampling(temperature=0, top_p=1, top_k=0, presence_penalty=2.0, repetition_penalty=50)
    decoder = start(sampling=strong)
    first = decoder.step()
    decoder.inject([9, 10])
    assert decoder.sampler._generated is not None and decoder.sampler._seen is not None
    generated = {i for i, hit in enumerate(decoder.sampler._generated[0].tolist()) if hit}
    seen = {i for i, hit in enumerate(decoder.sampler._seen[0].tolist()) if hit}
    assert generated == {first, 9, 10}  # the look-ahead token that was dropped is not there
    assert seen == generated | set(PROMPT)


def test_the_same_seed_draws_the_same_tokens() -> None:
    hot = Sampling(temperature=1.5, top_p=1, top_k=0)
    runs = [[start(sampling=hot, draws=draws).step() for _ in range(1)] for draws in (1, 1)]
    long = []
    for draws in (1, 1, 2):
        decoder = start(sampling=hot, draws=draws)
        long.append([decoder.step() for _ in range(300)])  # past one batch of random keys
    assert runs[0] == runs[1]
    assert long[0] == long[1] != long[2]


def test_reuse_keeps_the_common_prefix_and_leaves_a_token_to_compute() -> None:
    decoder = start()
    tokens = PROMPT + [decoder.step() for _ in range(4)]
    cache = decoder.cache
    assert cache.tokens == tokens
    assert cache.reuse(tokens) == len(tokens) - 1
    assert cache.reuse([*tokens[:4], 23, 23]) == 4
    assert cache.tokens == tokens[:4]
    assert all(layer.offset == 4 for layer in cache.layers)
    assert cache.reuse([22]) == 0 and cache.nbytes > 0


def test_a_reused_cache_gives_the_logits_of_a_cold_start() -> None:
    decoder = start()
    for _ in range(6):
        decoder.step()
    wanted = [*decoder.cache.tokens[:5], 11, 12, 13]
    kept = decoder.cache.reuse(wanted)
    assert kept == 5
    warm = prefill(decoder.network, wanted[kept:], decoder.cache)
    cold = prefill(decoder.network, wanted, PromptCache(decoder.network))
    assert warm is not None and cold is not None
    assert_close(warm, cold)


def test_prefill_reports_and_can_be_stopped_between_chunks() -> None:
    network, _ = tiny.network(77)
    cache, seen = PromptCache(network), []
    prompt = list(range(1, 21))
    logits = prefill(network, prompt, cache, 8, lambda *done: seen.append(done))
    assert logits is not None and seen == [(8, 20), (16, 20), (20, 20)]
    cache = PromptCache(network)
    stopped = prefill(network, prompt, cache, 8, stopped=lambda: len(cache.tokens) >= 16)
    assert stopped is None and cache.tokens == prompt[:16]


@pytest.mark.parametrize(
    ("held", "more", "part"), [(256, 1, 1), (256, 256, 1), (256, 600, 600 / 256)]
)
def test_memory_is_asked_for_where_a_buffer_is_to_grow(
    held: int, more: int, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doubles, or grows by what comes if that is more; rows that are free cost nothing."""
    network, _ = tiny.network(77, max_position_embeddings=4096)
    cache, asked = PromptCache(network), list[tuple[int, str]]()
    monkeypatch.setattr(
        "qwen3_mlx.engine.prompt_cache.require",
        lambda nbytes, doing, hint: asked.append((nbytes, doing)),
    )
    cache.make_room(10**6)
    prefill(network, [1] * 200, cache)
    cache.make_room(held - 200)
    assert asked == [], "the first buffers are the prompt's, and these have rows left"
    prefill(network, [1] * (held - 200), cache)
    cache.make_room(more)
    assert asked == [(int(part * cache.nbytes), f"at {held} tokens")]


def test_a_window_asks_for_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = tiny.network(77)
    cache, asked = PromptCache(network, CacheFormat(window=64)), list[object]()
    monkeypatch.setattr("qwen3_mlx.engine.prompt_cache.require", lambda *given: asked.append(given))
    prefill(network, [1] * 200, cache)
    cache.make_room(10**6)
    assert asked == []
