"""One more sequence is let in exactly where its keys, values and scratch fit."""

from __future__ import annotations

from functools import cache

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.memory_admission import Admission
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prefixes import Prefixes
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.fit import machine
from qwen3_mlx.fit.inequality import ways_to_free_memory
from qwen3_mlx.fit.machine import Machine
from qwen3_mlx.fit.prefill_peak import chunk_bytes
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat
from tests import tiny

PLAIN = 2 * 2 * 2 * 16
"""Numbers of a token: keys and values of two layers, with two heads of 16."""


@cache
def made() -> tuple[Qwen3Network, Qwen3Config]:
    """Made by the first test: a process that has computed can't be forked (`tests.mutate`)."""
    return tiny.network(77)


def store(*prompts: list[int]) -> Prefixes:
    network, _ = made()
    found = Prefixes(lambda: PromptCache(network), 10**9)
    for prompt in prompts:
        held = PromptCache(network)
        prefill(network, prompt, held)
        found.add(held)
    return found


def free(monkeypatch: pytest.MonkeyPatch, nbytes: int, float_bytes: int | None = 4) -> Machine:
    """Make the machine one with so many bytes, swap included."""
    place = Machine(nbytes, "free", float_bytes)
    monkeypatch.setattr(machine, "this_machine", lambda *, swap: place if swap else None)
    return place


@pytest.mark.parametrize(
    ("cache_format", "floats", "per_token", "held"),
    [
        (AS_COMPUTED, 4, 4 * PLAIN, 1000 + 300),
        (AS_COMPUTED, 2, 2 * PLAIN, 1000 + 300),
        (AS_COMPUTED, None, 2 * PLAIN, 1000 + 300),
        (CacheFormat(8), 4, PLAIN + 4 * PLAIN // 32 * 2, 1000 + 300),
        (CacheFormat(window=512), 4, 4 * PLAIN, 512 + 4 + 300),
        (CacheFormat(window=128), 4, 4 * PLAIN, 2 * (128 + 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("helped", [False, True])
def test_a_sequence_needs_its_rows_those_promised_and_a_chunk_s_scratch(
    cache_format: CacheFormat,
    floats: int | None,
    per_token: int,
    held: int,
    helped: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A draft model's keys and values are neither packed nor in a window."""
    _, config = made()
    admission = Admission(config, cache_format, config if helped else None)
    packed = cache_format.bits is not None
    needed = per_token * held + chunk_bytes(config, Machine(0, "", floats), 64, 1000, packed)
    needed += (floats or 2) * PLAIN * 1300 if helped else 0
    for nbytes, fits in ((needed, True), (needed - 1, False)):
        free(monkeypatch, nbytes, floats)
        assert admission.room(1000, 300, False, store()) == fits


def test_what_is_kept_goes_before_a_sequence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, config = made()
    kept = store([1, *range(20)], [2, *range(20)], [3, *range(20)])
    free(monkeypatch, 10**9)
    assert Admission(config).room(1000, 0, False, kept) and kept.evictions == 0
    left = [0, 0, 10**9]
    monkeypatch.setattr(machine, "this_machine", lambda swap=False: Machine(left.pop(0), "free", 4))
    assert Admission(config).room(1000, 0, False, kept) and kept.evictions == 2 and not left


def test_one_that_can_never_fit_is_refused_with_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, config = made()
    free(monkeypatch, 1000)
    assert not Admission(config).room(4000, 0, False, kept := store([1, *range(20)]))
    assert len(kept) == 0
    for floats, each in ((4, 4), (2, 2), (None, 2)):
        free(monkeypatch, 1000, floats)
        with pytest.raises(OutOfMemoryError, match="at 4,000 tokens") as refused:
            Admission(config).room(4000, 0, True, store())
        ways = ways_to_free_memory(config, 4000, None, each)
        assert refused.value.hint == f"try {ways}"


def test_without_the_check_all_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0)
    monkeypatch.setattr("qwen3_mlx.engine.memory_admission.checked", lambda: False)
    assert Admission(made()[1]).room(10**9, 10**9, True, kept := store([1, *range(20)]))
    assert len(kept) == 1
