"""Long prompts: chunks as large as the memory bears, scratch that doesn't grow with the context."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.fit.chunk_size import SHORTEST, PromptMemory
from qwen3_mlx.fit.inequality import PREFILL_CHUNK
from qwen3_mlx.fit.kv_cache import kv_bytes_per_token
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.fit.prefill_peak import chunk_bytes
from qwen3_mlx.model import Qwen3
from qwen3_mlx.nn import softmax_attention
from qwen3_mlx.options import AS_COMPUTED, CacheFormat
from tests import tiny

GPU = Machine(0, "", fused_attention=True)
SIZE: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 8192,
}


def scratch(cache_format: CacheFormat, context: int, chunk: int) -> int:
    """Bytes at the peak of a prefill beyond the weights and the cache it leaves."""
    net, _ = tiny.network(0, **SIZE)
    cache = PromptCache(net, cache_format)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(prefill(net, [n % 23 for n in range(context)], cache, chunk))
    return mx.get_peak_memory() - before - cache.nbytes


@pytest.mark.parametrize(
    "cache_format", [AS_COMPUTED, CacheFormat(bits=8), CacheFormat(window=512)], ids=str
)
@pytest.mark.parametrize("chunk", [256])
def test_scratch_is_bounded_whatever_the_context(
    cache_format: CacheFormat, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where the tiles begin it is flat; the whole score matrix would be four times larger."""
    monkeypatch.setattr(softmax_attention, "SCORES", 2**18)
    short, long = (scratch(cache_format, context, chunk) for context in (512, 2048))
    for _ in range(9):  # how far MLX works ahead differs by a tenth and more on a busy machine
        if long > 1.1 * short:
            short = max(short, scratch(cache_format, 512, chunk))
            long = min(long, scratch(cache_format, 2048, chunk))
    assert long <= 1.1 * short
    assert long < 4 * 8 * chunk * 2048  # the score matrix of the last chunk, in float32


@pytest.mark.parametrize(
    "cache_format", [AS_COMPUTED, CacheFormat(bits=8), CacheFormat(bits=4)], ids=str
)
def test_a_chunk_fits_into_what_is_free(cache_format: CacheFormat) -> None:
    _, config = tiny.network(0, **SIZE)
    seen = []
    packed = cache_format.bits is not None
    grown = 2 * kv_bytes_per_token(config, cache_format.bits) * 4000
    bare = [chunk_bytes(config, GPU, size, 5000, packed) for size in (2048, 2047, 600, 512, 40, 31)]
    for free in [grown + scratch for scratch in bare]:
        machine = replace(GPU, available_bytes=free)
        size = PromptMemory(config, cache_format, 1000, 5000, machine).fitting(None)[0]
        assert size == SHORTEST or chunk_bytes(config, GPU, size, 5000, packed) + grown <= free
        twice = chunk_bytes(config, GPU, 2 * size, 5000, packed)
        assert size == PREFILL_CHUNK or twice + grown > free  # and no smaller than it must be
        seen.append(size)
    assert seen == [PREFILL_CHUNK, 1024, 512, 512, 32, SHORTEST]


def test_a_window_grows_by_itself_at_most() -> None:
    _, config = tiny.network(0, **SIZE)
    free = chunk_bytes(config, GPU, 2048, 8000, False) + 2 * 600 * kv_bytes_per_token(config)
    machine = replace(GPU, available_bytes=free)
    windowed, full = (
        PromptMemory(config, cache_format, 0, 8000, machine).fitting(None)[0]
        for cache_format in (CacheFormat(window=600), AS_COMPUTED)
    )
    assert full < windowed == PREFILL_CHUNK


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a byte to spare."""
    for place in ("qwen3_mlx.fit.chunk_size.this_machine", "qwen3_mlx.fit.machine.this_machine"):
        monkeypatch.setattr(place, lambda **_: Machine(0, "left", float_bytes=4))


def test_a_turn_reads_in_such_chunks(full: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the option says how many."""
    monkeypatch.setenv("QWEN3_MLX_FIT", "off")
    talker = Qwen3(tiny.runtime(0))
    steps: list[int] = []
    text = "one two three four five six seven eight nine ten " * 3

    def note(done: int, _total: int) -> None:
        steps.append(done)

    list(talker.stream(text, max_tokens=1, on_progress=note))
    assert steps[:2] == [SHORTEST, 2 * SHORTEST]
    steps.clear()
    list(talker.stream(text, max_tokens=1, prefill_chunk=100, on_progress=note))
    assert steps[0] == 100


def test_what_is_seen_not_to_fit_costs_nothing(full: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn is refused with what would help; conversation and cache are as they were."""
    talker = Qwen3(tiny.runtime(0))
    with monkeypatch.context() as patch:
        patch.setenv("QWEN3_MLX_FIT", "off")
        chat = talker.session(temperature=0.0, max_tokens=10)
        list(chat.send("one"))
        chat.warm()
        before, held = [dict(m) for m in chat.messages], list(chat.cache.tokens)
        with monkeypatch.context() as inner:
            inner.delenv("QWEN3_MLX_FIT")
            with pytest.raises(
                OutOfMemoryError, match=r"out of memory at \d+ tokens(.|\n)*--kv-bits"
            ):
                list(chat.send("two"))
        assert chat.messages[: len(before)] == before
        assert len(chat.cache.tokens) >= len(held) > 0
        *_, done = chat.retry()
        assert done.stats.cached_tokens == len(held)
