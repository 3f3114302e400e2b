"""Who reads next, and how much at once."""

from __future__ import annotations

import itertools

from qwen3_mlx.engine.fair import FIRST, SHORTEST, STARVED_SECONDS, ChunkPace, next_reader
from qwen3_mlx.engine.prefixes import common_prefix


def test_the_shortest_rest_first_but_nobody_starves() -> None:
    now = 100.0
    assert next_reader([(30_000, now), (50, now), (400, now)], now) == 1
    assert next_reader([(30_000, now - STARVED_SECONDS), (50, now)], now) == 0
    waited = [(9, now - 3), (30_000, now - 5), (50, now - 4)]
    assert next_reader(waited, now) == 1, "the one that has waited longest"


def test_a_flood_of_short_prompts_lets_a_long_one_through() -> None:
    """A chunk every two seconds at least, whatever comes."""
    now, long_last, chunks = 0.0, 0.0, 0
    for _ in range(400):
        picked = next_reader([(30_000, long_last), (50, now)], now)
        if picked == 0:
            chunks, long_last = chunks + 1, now
        now += 0.1
    assert chunks >= 40.0 / (STARVED_SECONDS + 0.2) - 1


def test_chunks_follow_the_time_they_take() -> None:
    pace = ChunkPace()
    assert pace.size(0.1, 10_000) == FIRST and pace.size(0.1, 5) == 5
    sizes = []
    for _ in range(12):  # a machine that reads 5,000 tokens a second
        sizes.append(pace.size(0.1, 10_000))
        pace.took(sizes[-1], sizes[-1] / 5_000)
    assert sizes[-1] == 500 and all(b <= 2 * a for a, b in itertools.pairwise(sizes))
    pace.took(500, 50.0)  # it has become slow: the next chunk is short at once
    assert pace.size(0.1, 10_000) == SHORTEST
    assert pace.size(0.1, 3) == 3


def test_common_prefixes_of_any_length() -> None:
    for length in (0, 1, 511, 512, 513, 1024, 3000):
        one = list(range(length)) + [-1] * 700
        other = list(range(length)) + [-2] * 600
        assert common_prefix(one, other) == length == common_prefix(one, one[:length])
