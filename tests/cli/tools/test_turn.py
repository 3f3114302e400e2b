"""A turn of several steps: its counts are those of all of them."""

from __future__ import annotations

from dataclasses import fields

from qwen3_mlx.cli.tools.turn import together
from qwen3_mlx.events import Speculation, Stats

FIRST = Stats(
    prompt_tokens=100,
    cached_tokens=0,
    thinking_tokens=7,
    answer_tokens=2,
    thinking_cut="sure",
    ttft_s=0.5,
    peak_memory_bytes=9,
    speculation=Speculation(rounds=3, drafted=9, accepted=5, gain=1.2),
    probes=2,
    probe_tokens=20,
    probe_seconds=0.25,
)
LAST = Stats(
    prompt_tokens=150,
    cached_tokens=109,
    thinking_tokens=1,
    answer_tokens=4,
    ttft_s=0.1,
    prefill_tps=50.0,
    decode_tps=80.0,
    peak_memory_bytes=5,
    kv_bytes=3,
    kv_kind="as computed",
    speculation=Speculation(rounds=1, drafted=3, accepted=3, gain=1.4, off="slow"),
    probes=1,
    probe_tokens=8,
    probe_seconds=0.5,
)


def test_counts_are_those_of_all_steps_and_the_prompt_is_the_last() -> None:
    assert together([FIRST, LAST]) == Stats(
        prompt_tokens=150,
        cached_tokens=109,
        thinking_tokens=8,
        answer_tokens=6,
        thinking_cut="sure",
        ttft_s=0.5,
        prefill_tps=50.0,
        decode_tps=80.0,
        peak_memory_bytes=9,
        kv_bytes=3,
        kv_kind="as computed",
        speculation=Speculation(rounds=4, drafted=12, accepted=8, gain=1.4, off="slow"),
        probes=3,
        probe_tokens=28,
        probe_seconds=0.75,
    )


def test_one_step_is_itself_and_none_is_nothing() -> None:
    assert together([LAST]) == LAST and together([]) == Stats()
    assert {field.name for field in fields(Stats) if not getattr(LAST, field.name)} == {
        "thinking_cut"
    }, "a new count must be added here"
