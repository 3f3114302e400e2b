"""How long steps take with the pass that each leaves behind, and what a chunk between may take."""

from __future__ import annotations

import pytest

from qwen3_mlx.engine.fair import CHUNK_SECONDS, CHUNK_STEPS
from qwen3_mlx.engine.step_times import StepTimes


class Clock:
    """A clock that another `wait` seconds have passed by whenever it is read."""

    def __init__(self) -> None:
        self.now, self.wait = 100.0, 0.0

    def __call__(self) -> float:
        self.now += self.wait
        return self.now


def step(clock: Clock, steps: StepTimes, seconds: float) -> float:
    began = clock.now
    clock.now += seconds
    return steps.ended(began)


def test_what_was_waited_for_before_a_chunk_belongs_to_the_step() -> None:
    clock = Clock()
    steps = StepTimes(clock)
    step(clock, steps, 0.25)
    for _ in range(3):
        assert steps.waited == 0.0
        clock.wait = 2.0
        steps.chunk_seconds()
        clock.wait = 0.0
        assert steps.waited == 2.0
        step(clock, steps, 0.25)
    assert steps.chunk_seconds() == CHUNK_STEPS * 2.25


def test_the_first_step_has_no_one_before_it() -> None:
    """Nor has the first after a pause: what it computed began long ago."""
    clock = Clock()
    steps = StepTimes(clock)
    assert step(clock, steps, 50.0) == 0.0 and steps.chunk_seconds() == CHUNK_SECONDS
    assert step(clock, steps, 2.0) == 2.0
    clock.wait = 1.0
    steps.chunk_seconds()
    steps.pause()
    assert steps.waited == 0.0
    clock.wait = 0.0
    assert step(clock, steps, 50.0) == 0.0 and steps.chunk_seconds() == CHUNK_STEPS * 2.0


@pytest.mark.parametrize(("slower", "quickest"), [(7, 1.0), (8, 3.0)])
def test_the_quickest_of_the_last_eight_steps_counts(slower: int, quickest: float) -> None:
    clock = Clock()
    steps = StepTimes(clock)
    for seconds in (1.0, 1.0, *[3.0] * slower):
        step(clock, steps, seconds)
    assert steps.chunk_seconds() == CHUNK_STEPS * quickest
