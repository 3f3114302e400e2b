"""Random schedules of turns that come, run together and are cancelled, held to each turn alone.

python -m tests.chat.schedules [COUNT [FIRST]] [drafts]
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

from qwen3_mlx.chat.request import prepare
from qwen3_mlx.chat.turns import Reading, Turn, new_scheduler
from qwen3_mlx.engine.fair import FIRST
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.events import Reply
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import CacheFormat, GenerationOptions
from tests import tiny
from tests.chat.any_drafts import KINDS, AnyDrafts, eager

WORDS = ["ab", "cde", "fghi", "jk", "lmno", "pq", "r", "stu", "vwx", "yz"]
FORMATS = (CacheFormat(), CacheFormat(8), CacheFormat(4), CacheFormat(window=64))
MOST_TOGETHER = 16
PREFIX_BYTES = 60_000


def asked(seed: int) -> tuple[str, dict[str, Any]]:
    """A random prompt with random options; all that a sequence has of its own is among them."""
    draw = random.Random(seed)
    prompt = " ".join(draw.choices(WORDS, k=draw.choice([3, 20, 60])))
    options: dict[str, Any] = {
        "max_tokens": draw.choice([10, 40, 80]),
        "temperature": draw.choice([0.0, 0.8]),
        "seed": seed,
        "thinking_budget": draw.choice([None, None, 3, 8]),
        "presence_penalty": draw.choice([None, 1.0]),
        "repetition_penalty": draw.choice([None, 1.2]),
        "stop": draw.choice([None, "a", "ee"]),
        "logit_bias": draw.choice([None, {4: 3.0}]),
    }
    if options["thinking_budget"] is not None:
        options["max_tokens"] = 150
    if seed % 5 == 2:
        options["regex"] = "[ab]{2,6}(cde|[a-z ]{3,30})"
    return prompt, options


def turn(model: Qwen3, prompt: str, **options: Any) -> Turn:
    messages = [{"role": "user", "content": prompt}]
    request = prepare(model.runtime, messages, GenerationOptions(**options))
    return Turn(model.runtime, request, messages=messages)


def same(one: Reply, other: Reply) -> bool:
    counts = (one.stats.thinking_tokens, one.stats.answer_tokens, one.stats.thinking_cut)
    others = (other.stats.thinking_tokens, other.stats.answer_tokens, other.stats.thinking_cut)
    texts = (one.thinking, one.answer, one.finish_reason, one.stopped_by)
    return (*texts, *counts) == (
        *(other.thinking, other.answer, other.finish_reason, other.stopped_by),
        *others,
    )


@cache
def model_of(seed: int) -> Qwen3:
    """One of eight: dense or a Mixture of Experts, with each kind of cache."""
    experts = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    changes: dict[str, Any] = experts | {"moe_intermediate_size": 32} if seed % 2 else {}
    runtime = tiny.runtime(seed % 2 + 3, head_dim=32, **changes)
    return Qwen3(replace(runtime, cache_format=FORMATS[seed // 2 % len(FORMATS)]))


def run_schedule(seed: int, kinds: Sequence[str] = ()) -> tuple[int, int, int]:
    """Run one schedule, with drafts of these kinds; raises `AssertionError`.

    Returns its turns, how many were cancelled, and the drafts that were right.
    """
    draw, model = random.Random(seed), model_of(seed % 8)
    drafts = AnyDrafts(model.runtime, random.Random(seed), kinds)
    running = Qwen3(replace(model.runtime, drafts=drafts)) if kinds else model
    most = draw.choice([2, 5, MOST_TOGETHER])
    packed = model.runtime.cache_format.bits is not None
    settings = {"parallel": most, "prefix_bytes": PREFIX_BYTES}
    scheduler = new_scheduler(model.runtime, clock=_clock(draw, stands=packed), **settings)
    questions = [asked(100 * seed + n) for n in range(draw.randint(2, MOST_TOGETHER))]
    if packed:  # other chunks' last bits round to other levels at times
        questions = [(prompt, given | {"prefill_chunk": FIRST}) for prompt, given in questions]
    turns = [turn(running, prompt, **options) for prompt, options in questions]
    with eager(draw.choice([3, 64])) if kinds else nullcontext():
        touched = set(_run(scheduler, turns, draw))
    cancelled = 0
    for number, (prompt, options) in enumerate(questions):
        reply = Reply.from_events(e for e in turns[number] if not isinstance(e, Reading))
        expected = model.generate(prompt, **options)
        if number in touched and reply.finish_reason == "interrupted":
            cancelled += 1
            assert (expected.thinking + expected.answer).startswith(reply.thinking), number
        else:
            assert same(reply, expected), (seed, number, reply, expected)
    assert scheduler.prefixes.nbytes <= PREFIX_BYTES, seed
    return len(turns), cancelled, sum(payoff.turn.accepted for payoff in drafts.payoffs)


def _clock(draw: random.Random, *, stands: bool) -> Callable[[], float]:
    """Time that passes as `draw` says, so that chunks have any length; none if it `stands`."""
    now = 100.0

    def tell() -> float:
        nonlocal now
        if not stands:
            now += draw.choice([0.0, 1e-4, 0.01, 0.3])
        return now

    return tell


def _run(scheduler: Scheduler, turns: list[Turn], draw: random.Random) -> Iterator[int]:
    """Rounds until nothing is left; yields the turns that were told to stop."""
    coming = list(turns)
    arrive, cancel = draw.choice([0.1, 0.3, 1.0]), draw.choice([0.0, 0.02, 0.05])
    while coming or scheduler.running or scheduler.waiting:
        if coming and draw.random() < arrive:
            scheduler.submit(coming.pop(0).task)
        if draw.random() < cancel:
            number = draw.randrange(len(turns))
            turns[number].interrupt()
            yield number
        scheduler.round()


def main() -> None:
    """Run so many schedules, and say what came of them."""
    given = [int(argument) for argument in sys.argv[1:] if argument != "drafts"]
    kinds = KINDS if "drafts" in sys.argv else ()
    count, first = (given + [1000, 0][len(given) :])[:2]
    began, turns, cancelled, right = time.monotonic(), 0, 0, 0
    for seed in range(first, first + count):
        ran, ended, accepted = run_schedule(seed, kinds)
        turns, cancelled, right = turns + ran, cancelled + ended, right + accepted
    seconds = time.monotonic() - began
    said = f"{count} schedules, {turns} turns, {cancelled} cancelled, as alone"
    print(f"{said}; {right} drafts were right; {seconds:.0f} s")


if __name__ == "__main__":
    main()
