"""Who reads next, and how much at once."""

from __future__ import annotations

import statistics

import pytest

from qwen3_mlx.engine.fair import (
    CHUNK_SECONDS,
    CHUNK_STEPS,
    FIRST,
    HARD_PAST,
    OWN_TIMES,
    SHORTEST,
    SLOWER,
    STARVED_SECONDS,
    Chunk,
    ChunkPace,
    next_reader,
    own_seconds,
)
from qwen3_mlx.engine.prefixes import common_prefix
from qwen3_mlx.engine.step_times import StepTimes


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


def demo(tokens: int, offset: int) -> float:
    """Seconds of a chunk on two cores, as measured with the demo."""
    return 0.004 + tokens * 0.004 * (1 + (offset + tokens / 2) / 3_000)


def read(pace: ChunkPace, seconds: float, total: int, offset: int = 0) -> list[float]:
    """How long the chunks of a prompt took, each to take `seconds`."""
    took = []
    while offset < total:
        size = pace.size(seconds, min(2048, total - offset), offset)
        took.append(demo(size, offset))
        pace.took(size, took[-1], offset)
        offset += size
    return took


def test_chunks_follow_the_time_they_take() -> None:
    pace = ChunkPace()
    assert pace.size(0.1, 10_000) == FIRST and pace.size(0.1, 5) == 5
    sizes = []
    for _ in range(30):  # a machine that reads 5,000 tokens a second
        sizes.append(pace.size(0.1, 10_000))
        pace.took(sizes[-1], sizes[-1] / 5_000)
    assert sizes[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert 400 <= sizes[-1] <= 500, "fewer than 500: their own past is taken to be hard"
    pace.took(500, 50.0)  # it has become slow: the next chunk is shorter at once
    assert pace.size(0.1, 10_000) <= 500 / SLOWER
    pace.took(125, 12.5)  # and it has: as short as can be
    assert pace.size(0.1, 10_000) == SHORTEST
    assert pace.size(0.1, 3) == 3


def test_no_chunk_of_a_long_prompt_takes_longer_than_it_may() -> None:
    """A growing past makes tokens dearer: that may not be found out by a chunk of too long."""
    for seconds in (0.1, 0.5, 5.0):
        took = read(ChunkPace(), seconds, 8_192)
        assert max(took) <= max(seconds, demo(FIRST, 0)), seconds
        assert statistics.mean(took) >= 0.55 * seconds, "nor is much of the time left unused"


def test_a_long_past_that_was_not_measured_is_taken_to_be_dear() -> None:
    """A prompt of which 8,000 tokens are kept already joins after short ones."""
    pace = ChunkPace()
    for _ in range(20):
        read(pace, 0.1, 200)
    assert max(read(pace, 0.1, 8_192, 8_000)) <= 0.1
    assert max(read(pace, 0.1, 200)) <= 0.1, "and a short one after it"


def test_a_quiet_moment_makes_no_long_chunk_and_a_busy_one_makes_short_ones() -> None:
    pace, sizes = ChunkPace(), []
    read(pace, 0.1, 400)
    usual = pace.size(0.1, 2048, 400)
    for slowness in (1, 1, 0.1, 1, 8, 1, 1, 8, 8, 1, 1):
        sizes.append(pace.size(0.1, 2048, 400))
        pace.took(sizes[-1], slowness * demo(sizes[-1], 400), 400)
    after_quick, after_slow, after_two = sizes[3], sizes[5], sizes[9]
    quicker = 1.34 * (usual + 1)  # `usual` is cut to whole tokens
    assert after_quick < quicker, "one chunk that was ten times quicker"
    assert usual / 5 <= after_slow <= usual / 3, "one that was eight times slower"
    assert after_two <= usual / 5, "two of them"
    assert pace.size(0.1, 2048, 400) >= 0.8 * usual, "which is forgotten after two usual ones"


@pytest.mark.parametrize("delay", [1.0, 3.4, 60.0])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_chunk_that_something_else_delayed_costs_a_prompt_little(delay: float, at: int) -> None:
    """2,014 tokens took 50 s instead of 10: one chunk had waited 3.4 s for another process."""
    pace, sizes, done = ChunkPace(), list[int](), 0
    while done < 2_014:
        size = pace.size(0.5, 2_014 - done, done)
        pace.took(size, demo(size, done) + (delay if len(sizes) == at else 0.0), done)
        sizes.append(size)
        done += size
    undisturbed = len(read(ChunkPace(), 0.5, 2_014))
    assert len(sizes) <= undisturbed + 8


@pytest.mark.parametrize("own", [0.02, 0.04, 0.1])
@pytest.mark.parametrize("each", [1e-5, 1e-4])
@pytest.mark.parametrize("every", [0, 3], ids=["the first", "the first and every third"])
def test_a_pass_that_takes_long_by_itself_is_found_out_behind_delays(
    own: float, each: float, every: int
) -> None:
    """8,190 tokens took 102 s on an H200: a compiler delayed the first chunk by 2.4 s, fours
    followed, and nothing in chunks of four says that a pass of hundreds would take no longer.
    """
    pace, taken, done = ChunkPace(), list[float](), 0
    while done < 8_190:
        size = pace.size(0.03, min(2048, 8_190 - done), done)
        delay = 2.4 if not taken else 0.07 * bool(every and len(taken) % every == 1)
        taken.append(own + size * each * (1 + (done + size / 2) / 24_000) + delay)
        pace.took(size, taken[-1], done)
        done += size
    assert sum(taken) < (15 if every else 7), "2.4 of them the first one's"
    undelayed = [one for n, one in enumerate(taken) if n and not (every and n % every == 1)]
    assert max(undelayed) < 1.2 * max(0.03, OWN_TIMES * own)


@pytest.mark.parametrize("own", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("first", [0.0, 1.5])
def test_a_pass_that_takes_long_by_itself_reads_many_tokens(own: float, first: float) -> None:
    """Cut by seconds per token alone, prompts of 30 tokens were read in fours, a pass each."""
    pace, took = ChunkPace(), list[list[float]]()
    for prompt in range(24):
        took.append([])
        left = 30
        while left:
            size = pace.size(0.03, left, 30 - left)
            took[-1].append(own + size * 0.00005 + (0.0 if prompt or left < 30 else first))
            pace.took(size, took[-1][-1], 30 - left)
            left -= size
    assert [len(one) for one in took[-12:]] == [1] * 12
    assert sum(map(len, took)) <= 24 + 16
    chunk = pace.size(0.03, 8192)
    pace.took(chunk, own + chunk * 0.00005)
    assert chunk >= 40 and own + chunk * 0.00005 <= max(0.03, OWN_TIMES * own) * 1.1


def test_short_prompts_teach_no_long_chunk() -> None:
    """All of their time looks like a pass's own; the next long prompt may not pay for that."""

    def seconds(tokens: int, offset: int) -> float:
        return 0.002 + tokens * 0.001 * (1 + (offset + tokens / 2) / 24_000)

    def read_within(limit: float, total: int) -> float:
        done, longest = 0, 0.0
        while done < total:
            size = pace.size(limit, min(2048, total - done), done)
            took = seconds(size, done)
            pace.took(size, took, done)
            done, longest = done + size, max(longest, took)
        return longest

    for long in (1_000, 5_706, 8_192):
        pace = ChunkPace()
        read_within(0.5, long)
        for _ in range(30):
            read_within(0.03, 12)
        assert read_within(0.03, 4_000) <= 0.06


def chunks(*read: tuple[int, float], offset: int = 0) -> list[Chunk]:
    return [Chunk(tokens, HARD_PAST + offset, seconds) for tokens, seconds in read]


def test_the_own_time_of_passes() -> None:
    line = chunks(*((n, 0.05 + n * 0.001) for n in (4, 8, 16, 30)))
    assert own_seconds(line) == pytest.approx(0.05)
    assert own_seconds([*line, *chunks((16, 1.5))]) == pytest.approx(0.05, abs=0.006)
    assert own_seconds(chunks(*((n, n * 0.004) for n in (4, 8, 16, 30)))) == pytest.approx(
        0, abs=1e-9
    )
    half = chunks((4, 0.10), (4, 0.10), (6, 0.12), (6, 0.12))
    assert own_seconds(half) == pytest.approx(0.06), "a half more is enough"
    assert own_seconds(chunks((4, 0.1), (8, 0.1))) is None, "one pair says little"
    assert own_seconds(chunks(*[(16, 0.1)] * 8)) is None, "and chunks of one length nothing"
    far = [*chunks((4, 0.1), (8, 0.1)), *chunks((16, 0.1), (30, 0.1), offset=9000)]
    assert own_seconds(far) is None, "nor do those behind other pasts"
    assert own_seconds(chunks((4, 0.2), (8, 0.1), (16, 0.05), (30, 0.02))) <= 0.05


def test_a_chunk_may_take_as_long_as_steps_that_are_slow_anyway() -> None:
    now = [100.0]
    steps = StepTimes(lambda: now[0])
    assert steps.chunk_seconds() == CHUNK_SECONDS
    for took in (0.2, 0.3, 0.2, 5.0):
        began = now[0]
        now[0] += took
        gap = steps.ended(began)
        now[0] += 1.0
    assert gap == pytest.approx(6.0), "with what came between"
    assert steps.chunk_seconds() == pytest.approx(CHUNK_STEPS * 0.2), "the quickest of the last"
    steps.pause()
    assert steps.ended(now[0]) == 0.0, "nobody waited"


def test_common_prefixes_of_any_length() -> None:
    for length in (0, 1, 511, 512, 513, 1024, 3000):
        one = list(range(length)) + [-1] * 700
        other = list(range(length)) + [-2] * 600
        assert common_prefix(one, other) == length == common_prefix(one, one[:length])
