"""The thread that computes for all: how it begins, what it survives, and how it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen3_mlx.engine.scheduler_thread import NAP_SECONDS, SchedulerThread


class Rounds:
    """Stands for a `Scheduler`: notes what its thread does with it."""

    def __init__(self) -> None:
        self.arrived = threading.Condition()
        self.running, self.busy, self.works = 0, False, False
        self.rounds = self.news = self.stops = 0
        self.waited = list[float]()
        self.failed = list[Exception]()
        self.fault: Exception | None = None

    def round(self) -> bool:
        self.rounds += 1
        if self.fault is not None:
            raise self.fault
        return self.works

    def on_news(self) -> None:
        self.news += 1

    def stop_all(self) -> None:
        self.stops += 1
        self.busy = False

    def fail_all(self, error: Exception) -> None:
        self.failed.append(error)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


@pytest.fixture
def made() -> Iterator[tuple[SchedulerThread, Rounds]]:
    rounds: Any = Rounds()
    thread = SchedulerThread(lambda: rounds)
    yield thread, rounds
    thread.close()
    assert not thread.alive


def test_it_gives_the_scheduler_that_was_made_in_it(made: tuple[SchedulerThread, Any]) -> None:
    thread, rounds = made
    assert not thread.alive, "it was not started"
    assert thread.start() is rounds and thread.alive and not thread.degraded
    until(lambda: rounds.rounds and rounds.news)
    own = [one for one in threading.enumerate() if one.name == "scheduler"]
    assert own and all(one.daemon for one in own), "none holds up the end of a program"
    thread.close()
    assert not thread.alive and rounds.stops == 1


def test_what_its_scheduler_raises_at_first_is_raised_where_it_was_started() -> None:
    fault = MemoryError("no room")

    def fails() -> Any:
        raise fault

    thread = SchedulerThread(fails)
    with pytest.raises(MemoryError, match="no room"):
        thread.start()
    until(lambda: not thread.alive)
    thread.close()
    thread.let_go()


def test_a_round_that_fails_ends_the_turns_and_the_next_one_works(
    made: tuple[SchedulerThread, Any], caplog: pytest.LogCaptureFixture
) -> None:
    thread, rounds = made
    rounds.fault = fault = RuntimeError("a device was lost")
    thread.start()
    until(lambda: len(rounds.failed) >= 2)
    assert thread.degraded and thread.alive and set(rounds.failed) == {fault}
    said = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(said) == 1 and "a device was lost" in caplog.text, "once, however often it fails"
    rounds.fault = None
    until(lambda: not thread.degraded)
    assert thread.alive


def test_the_end_waits_for_turns_and_then_stops_them(made: tuple[SchedulerThread, Any]) -> None:
    thread, rounds = made
    thread.start()
    rounds.busy = True
    began = time.monotonic()
    closing = threading.Thread(target=thread.close, args=(60.0,))
    closing.start()
    time.sleep(3 * NAP_SECONDS)
    assert rounds.stops == 0 and thread.alive, "turns may still end by themselves"
    rounds.busy = False
    closing.join(20)
    assert rounds.stops == 1 and not thread.alive and time.monotonic() - began < 20


def test_the_end_does_not_wait_longer_than_it_was_told(
    made: tuple[SchedulerThread, Any],
) -> None:
    thread, rounds = made
    thread.start()
    rounds.busy = True
    thread.close(0.01)
    assert rounds.stops == 1 and not thread.alive


def test_who_lets_go_waits_for_nothing(made: tuple[SchedulerThread, Any]) -> None:
    thread, rounds = made
    thread.start()
    rounds.stop_all = lambda: None  # what runs goes on for a while
    rounds.busy = rounds.works = True
    thread.let_go()
    assert not thread.alive
    before = rounds.rounds
    until(lambda: rounds.rounds > before + 2)
    rounds.busy = False


def test_it_waits_where_nothing_is_to_be_done(made: tuple[SchedulerThread, Any]) -> None:
    """For whoever arrives; a moment only while turns run, for memory or a listener."""
    thread, rounds = made
    waits = list[float | None]()
    real = rounds.arrived.wait

    def wait(seconds: float | None = None) -> bool:
        waits.append(seconds)
        return bool(real(0.002))

    rounds.arrived.wait = wait
    thread.start()
    until(lambda: len(waits) >= 3)
    assert set(waits) == {1.0}
    rounds.running, rounds.busy = 1, True
    until(lambda: NAP_SECONDS in waits)
    rounds.works = True
    until(lambda: rounds.rounds > 10)
    time.sleep(0.01)
    count, before = len(waits), rounds.rounds
    until(lambda: rounds.rounds > before + 10)
    assert len(waits) == count, "what works goes on at once"
    rounds.running, rounds.busy, rounds.works = 0, True, False
    time.sleep(0.02)
    count, before = len(waits), rounds.rounds
    until(lambda: rounds.rounds > before + 10)
    assert len(waits) == count, "somebody came just now"
