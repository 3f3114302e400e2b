"""The chunk in which a prompt fits: halved from 2,048, at least 32, by what the memory leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwen3_mlx.bench.random_network import config_values
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.fit import chunk_size
from qwen3_mlx.fit.chunk_size import PromptMemory
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.options import CacheFormat

PROMPT = PromptMemory(
    Qwen3Config.from_dict(config_values("0.6b")), CacheFormat(), 0, 20_000, Machine(0, "")
)


def fitting(available: int, size: int | None = None) -> int:
    return replace(PROMPT, machine=Machine(available, "")).fitting(size)[0]


@pytest.mark.parametrize("size", [2048, 1024, 512, 256, 128, 64, 32])
def test_each_half_is_taken_where_it_just_fits(size: int) -> None:
    needed = 2 * PROMPT.cache_bytes() + PROMPT.scratch_bytes(size)
    assert fitting(needed) == size
    assert fitting(needed - 1) == max(size // 2, 32)


def test_a_chunk_that_is_asked_for_stays_and_none_is_below_32() -> None:
    assert fitting(0) == 32
    assert fitting(0, 1000) == 1000 and fitting(0, 5) == 5


def test_the_bytes_are_the_cache_once_and_the_scratch() -> None:
    size, needed = replace(PROMPT, machine=Machine(2**50, "")).fitting(None)
    assert size == 2048 and needed == PROMPT.cache_bytes() + PROMPT.scratch_bytes(2048)
    # 28 layers, 8 heads of 128 for keys and for values, two bytes each
    assert PROMPT.cache_bytes() == 20_000 * 28 * 2 * 8 * 128 * 2
    assert replace(PROMPT, done=19_000).cache_bytes() == 1_000 * 28 * 2 * 8 * 128 * 2


def test_the_last_chunk_has_only_the_tokens_that_are_left() -> None:
    few = replace(PROMPT, done=19_990)
    assert few.scratch_bytes(2048) == few.scratch_bytes(10) == PROMPT.scratch_bytes(10)
    assert few.scratch_bytes(9) == PROMPT.scratch_bytes(9) < few.scratch_bytes(10)


def test_a_prompt_may_take_all_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no byte more. Swap counts on the CPU: slow, but it works."""
    _, needed = PROMPT.fitting(32)
    asked: list[bool] = []

    def free(swap: bool = False) -> Machine:
        asked.append(swap)
        return Machine(needed - short, "")

    monkeypatch.setattr(chunk_size, "this_machine", free)
    given = (PROMPT.config, PROMPT.cache_format, 0, 20_000)
    short = 0
    assert chunk_size.chunk_size(*given, 32) == 32
    short = 1
    with pytest.raises(OutOfMemoryError, match="at 20,000 tokens, of which 20,000 are new"):
        chunk_size.chunk_size(*given, 32)
    assert asked == [True, True]
