"""What is computed and done while no sequence needs the device."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

import pytest

from qwen3_mlx.engine.background import Background
from qwen3_mlx.engine.fair import IDLE_SECONDS
from qwen3_mlx.engine.idle import IdleWork
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prefixes import Prefixes
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.side_work import SideWork
from qwen3_mlx.engine.warm import warm
from qwen3_mlx.errors import BusyError
from qwen3_mlx.nn.transformer import Qwen3Network
from tests import tiny

IDS = [n * 7 % 20 for n in range(60)]


@cache
def network() -> Qwen3Network:
    """Made by the first test: a process that has computed can't be forked (`tests.mutate`)."""
    return tiny.network(77)[0]


def holding(tokens: list[int]) -> PromptCache:
    found = PromptCache(network())
    prefill(network(), tokens, found)
    return found


class Pace:
    """Chunks of 20 tokens, and what is learnt from each."""

    def __init__(self) -> None:
        self.learnt = list[tuple[int, float, int]]()

    def size(self, seconds: float, most: int, offset: int) -> int:
        assert seconds == IDLE_SECONDS
        return min(most, 20)

    def took(self, tokens: int, seconds: float, offset: int) -> None:
        self.learnt.append((tokens, seconds, offset))


def idle_work(*caches: PromptCache, pace: Any = None) -> tuple[IdleWork, Prefixes]:
    kept = Prefixes(lambda: PromptCache(network()), 10**9)
    for one in caches:
        kept.add(one)
    return IdleWork(network(), kept, pace or Pace()), kept


def test_a_kept_cache_is_extended_a_chunk_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100, 200, 3))
    monkeypatch.setattr("qwen3_mlx.engine.idle.time.monotonic", lambda: next(now))
    one, pace = holding([*IDS[:10], 21, 21]), Pace()
    work, _ = idle_work(one, pace=pace)
    work.add(one, lambda: IDS)
    lengths = []
    while work.step():
        lengths.append(len(one.tokens))
    assert lengths == [30, 50, 60] and one.tokens == IDS
    assert pace.learnt == [(20, 3, 10), (20, 3, 30), (10, 3, 50)]
    work.add(one, lambda: IDS)
    assert not work.step(), "nothing is left to compute"


def test_what_cannot_be_extended_does_not_hold_up_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    def fails() -> list[int]:
        raise RuntimeError("no template")

    taken, broken, unknown, good = (holding([n, *IDS]) for n in range(4))
    work, kept = idle_work(broken, unknown, good)
    work.add(taken, lambda: [0, *IDS, 9])
    work.add(broken, fails)
    work.add(unknown, list)
    work.add(good, lambda: [3, *IDS, 9])
    assert work.step() and not work.step()
    assert good.tokens == [3, *IDS, 9]
    assert [one.tokens for one in (taken, broken, unknown)] == [[n, *IDS] for n in range(3)]
    assert len(kept) == 3 and "RuntimeError: no template" in caplog.text


def test_only_the_latest_eight_conversations_are_extended() -> None:
    caches = [holding([n, *IDS[:20]]) for n in range(10)]
    work, _ = idle_work(*caches)
    for n, one in enumerate(caches):
        work.add(one, lambda n=n: [n, *IDS[:20], 9])
    while work.step():
        pass
    assert [len(one.tokens) for one in caches] == [21, 21] + [22] * 8
    work.add(caches[0], lambda: [0, *IDS[:20], 9])
    work.clear()
    assert not work.step() and len(caches[0].tokens) == 21


class Work:
    """A generator of `steps` steps that notes each, and its end."""

    def __init__(self, steps: int, act: Callable[[], object] = lambda: None) -> None:
        self.done, self.closed = 0, False
        self.steps = self._steps(steps, act)

    def _steps(self, steps: int, act: Callable[[], object]) -> Generator[None]:
        try:
            for _ in range(steps):
                self.done += 1
                act()
                yield
        finally:
            self.closed = True


def test_side_work_advances_by_turns_and_ends() -> None:
    side, works = SideWork(5), [Work(1), Work(2)]
    for one in works:
        side.add(one.steps)
    seen = []
    while side.step():
        seen.append([one.done for one in works])
    assert seen == [[1, 0], [1, 1], [1, 1], [1, 2], [1, 2]] and len(side) == 0
    assert all(one.closed for one in works) and not side.step()


def test_side_work_comes_first_and_then_every_other_time() -> None:
    side, one = SideWork(5), Work(10)
    side.add(one.steps)
    assert [side.step(by_turns=True) for _ in range(4)] == [True, False, True, False]
    assert [side.step() for _ in range(2)] == [True, True]
    assert not side.step(by_turns=True), "its turn was the last"


def test_side_work_of_requests_is_limited_and_that_of_sequences_is_not() -> None:
    side = SideWork(2)
    side.add(Work(1).steps)
    side.put(Work(1).steps)
    with pytest.raises(BusyError, match="2 of them"):
        side.add(Work(1).steps)
    side.put(Work(1).steps)
    assert len(side) == 3


def test_side_work_counts_while_it_is_being_done() -> None:
    side, lengths = SideWork(2), list[int]()
    side.add(Work(1, lambda: lengths.append(len(side))).steps)
    side.step()
    assert lengths == [1] and len(side) == 1
    side.step()
    assert len(side) == 0


def test_closed_side_work_is_not_done_again_whoever_closes_it() -> None:
    side = SideWork(5)
    waiting, closing = Work(5), Work(5, side.close)
    side.add(closing.steps)
    side.add(waiting.steps)
    assert side.step() and not side.step()
    assert (closing.done, waiting.done) == (1, 0) and closing.closed and len(side) == 0
    side.add((later := Work(2)).steps)
    assert [side.step() for _ in range(4)] == [True, True, True, False] and later.done == 2


def test_a_cache_is_warmed_to_exactly_some_tokens() -> None:
    one = holding([*IDS[:10], 21, 21])
    assert warm(network(), IDS, one) == 50 and one.tokens == IDS
    assert warm(network(), IDS, one) == 0
    assert warm(network(), IDS[:20], one) == 0 and one.tokens == IDS[:20]


def test_warming_stops_between_two_steps() -> None:
    one, asked = PromptCache(network()), list[int]()

    def stopped() -> bool:
        asked.append(len(one.tokens))
        return len(asked) == 2

    assert warm(network(), IDS, one, stopped) == len(one.tokens) == 16
    assert asked == [0, 16]


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        ([0.1] * 8, [16, 32, 64, 128, 256, 512, 1024, 1024]),
        ([0.125] * 3, [16] * 3),
        ([0.25] * 3, [16] * 3),
        ([0.26] * 3, [16] * 3),
        ([0.1, 0.1, 0.25, 0.26, 0.26, 0.26, 0.1], [16, 32, 64, 64, 32, 16, 16]),
    ],
    ids=str,
)
def test_steps_of_warming_are_as_long_as_a_turn_may_wait(
    seconds: list[float], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They grow below half of the time, and shrink above it."""
    read, now = list[int](), [0.0]

    def takes(network: Any, tokens: list[int], cache: PromptCache) -> None:
        prefill(network, tokens, cache)
        now[0] += seconds[len(read)]
        read.append(len(tokens))

    monkeypatch.setattr("qwen3_mlx.engine.warm.STEP_SECONDS", 0.25)
    monkeypatch.setattr("qwen3_mlx.engine.warm.prefill", takes)
    monkeypatch.setattr("qwen3_mlx.engine.warm.time.perf_counter", lambda: now[0])
    warm(network(), [1] * 4000, PromptCache(network()), lambda: len(read) == len(seconds))
    assert read == sizes


def test_one_job_runs_in_the_background_until_the_next_or_a_stop() -> None:
    background, seen = Background(), list[str]()

    def job(name: str) -> Callable[[Callable[[], bool]], None]:
        def works(stopped: Callable[[], bool]) -> None:
            seen.append(f"{name} begins")
            while not stopped():
                time.sleep(0.001)
            seen.append(f"{name} ends")

        return works

    assert background.wait(0), "nothing runs yet"
    background.run(job("one"))
    assert not background.wait(0.01)
    background.run(job("two"))
    background.stop()
    assert background.wait(0)
    assert seen == ["one begins", "one ends", "two begins", "two ends"]


def test_a_job_that_fails_leaves_the_background_to_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    background, done = Background(), threading.Event()

    def fails(_: object) -> None:
        raise RuntimeError("no memory")

    background.run(fails)
    assert background.wait(10)
    background.run(lambda _: done.set())
    assert background.wait(10) and done.is_set() and "RuntimeError: no memory" in caplog.text
    names = [thread.name for thread in threading.enumerate() if thread is background._thread]
    assert names == ["background"], "one thread for all jobs"
    assert background._thread is not None and background._thread.daemon


def test_work_is_closed_though_close_comes_as_it_leaves_the_queue() -> None:
    """A shutdown of another thread may fall between any two steps of this one."""
    side, closed = SideWork(4), list[bool]()

    class Queue(deque[Generator[object]]):
        def popleft(self) -> Generator[object]:
            taken = super().popleft()
            if not closed:
                closed.append(True)
                side.close()
            return taken

    def work() -> Generator[object]:
        for _ in range(3):
            yield

    side._work = Queue()
    side.add(work())
    assert side.step() and closed == [True] and len(side) == 0


class Between(deque[Generator[object]]):
    """A queue of work; a shutdown of another thread begins where `when` is asked."""

    def __init__(self, side: SideWork, when: str) -> None:
        super().__init__()
        self._side, self._when = side, when

    def _asked(self, what: str) -> None:
        if what == self._when:
            self._when = ""
            closing = threading.Thread(target=self._side.close)
            closing.start()
            closing.join(0.2)  # it may have to wait for this thread

    def __len__(self) -> int:
        found = super().__len__()
        self._asked("is there any?")
        return found

    def append(self, work: Generator[object]) -> None:
        self._asked("again")
        super().append(work)


@pytest.mark.parametrize("when", ["is there any?", "again"])
def test_a_shutdown_between_a_look_at_the_queue_and_its_change_closes_all(when: str) -> None:
    side, one = SideWork(4), Work(9)
    side._work = Between(side, when)
    side._work += [one.steps]
    side.step()
    time.sleep(0.1)  # the shutdown has been by then
    assert one.closed and not side.step() and one.done <= 1


def test_a_stop_waits_for_no_job_that_it_did_not_stop() -> None:
    """A conversation of another thread may begin one at any moment of it."""
    background, begun = Background(), list[threading.Thread]()
    give_up = background.give_up

    def job(stopped: Callable[[], bool]) -> None:
        while not stopped():
            time.sleep(0.001)

    def gives_up() -> None:
        give_up()
        if not begun:
            begun.append(threading.Thread(target=background.run, args=(job,), daemon=True))
            begun[0].start()
            begun[0].join(0.2)  # it may have to wait for this thread

    background.give_up = gives_up  # type: ignore[method-assign]
    stopping = threading.Thread(target=background.stop, daemon=True)
    stopping.start()
    stopping.join(5)
    waits = stopping.is_alive()
    begun[0].join(5)
    give_up()
    assert background.wait(5) and not waits, "it waits for a job that nobody told to end"
