"""What a turn says of its own times and counts, on a clock that is told."""

from __future__ import annotations

import pytest

from qwen3_mlx.chat import turn_output
from qwen3_mlx.chat.turn_output import Clock
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.options.thinking_budget import ThinkingBudget

MARKERS = Markers(24, 25, None, frozenset({26}))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    told = [100.0]
    monkeypatch.setattr(turn_output.time, "perf_counter", lambda: told[0])
    return told


def turn(probing: ProbeSchedule | None = None) -> TurnSequence:
    return TurnSequence(MARKERS, ThinkingBudget(None, ()), 99, probing=probing)


def test_the_time_to_the_first_token_is_the_prompt_s_and_the_rest_the_answer_s(
    now: list[float],
) -> None:
    clock = Clock(50)
    clock.cached = 10
    for seconds, tokens in ((4.0, 1), (2.0, 1), (1.0, 0), (3.0, 2)):
        now[0] += seconds
        clock.tick(tokens)
    now[0] += 99.0
    stats = clock.stats(turn(), None)
    assert (stats.prompt_tokens, stats.cached_tokens) == (50, 10)
    assert (stats.ttft_s, stats.prefill_tps) == (4.0, 10.0), "ten were kept"
    assert stats.decode_tps == 3 / 6.0, "the first of four came with the prompt"
    assert (stats.probes, stats.probe_tokens, stats.probe_seconds) == (0, 0, 0.0)
    assert (stats.kv_bytes, stats.kv_kind) == (0, "")


def test_a_turn_without_tokens_has_no_speed(now: list[float]) -> None:
    clock = Clock(50)
    stats = clock.stats(turn(), None)
    assert (stats.ttft_s, stats.prefill_tps, stats.decode_tps) == (0.0, 0.0, 0.0)
    clock.tick(1)
    stats = clock.stats(turn(), None)
    assert (stats.ttft_s, stats.prefill_tps, stats.decode_tps) == (0.0, 0.0, 0.0), "nor at once"


def test_a_turn_s_probes_are_counted_apart(now: list[float]) -> None:
    probing = ProbeSchedule(ProbeRule(4, 1, 0.9, (1,)), probes=3, tokens=21, seconds=1.5)
    sequence = turn(probing)
    for token in (24, 1, 25, 2, 2, 2):
        sequence.take(token)
    stats = Clock(9).stats(sequence, None)
    assert (stats.probes, stats.probe_tokens, stats.probe_seconds) == (3, 21, 1.5)
    assert (stats.thinking_tokens, stats.answer_tokens, stats.thinking_cut) == (2, 3, "")
