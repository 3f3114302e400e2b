"""A probe beside other sequences: they wait for one of its passes, and nobody sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qwen3_mlx.engine import probe_schedule
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.probe import LONGEST
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.scheduler import Scheduler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.side_work import SideWork
from qwen3_mlx.engine.task import Task
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests import tiny
from tests.probing import ALWAYS, DRAWN, MARKERS, NEVER, PROMPT, SLOT, STOP, Run

COUNT = 40


class Heard:
    """What became of a task."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.ids: list[int] = []
        self.error: Exception | None = None
        self.over, self._act = False, act

    def reading(self, done: int, total: int) -> None:
        """Nothing is said yet."""

    def said(self, ids: tuple[int, ...], generated: bool, logprobs: object) -> None:
        self.ids += ids
        self._act()

    def full(self) -> bool:
        return False

    def ended(self, cache: object) -> None:
        self.over = True

    def failed(self, error: Exception) -> None:
        self.error, self.over = error, True


class Beside:
    """Two tasks of one scheduler, the first of which is probed at every chance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, certainty: float = NEVER) -> None:
        monkeypatch.setattr(probe_schedule, "MISFITS", 10**9)
        monkeypatch.setattr(probe_schedule, "BACK_OFF", 1)
        self.network, config = tiny.network(77)
        self.scheduler = Scheduler(self.network, config, lambda: PromptCache(self.network))
        self.probing = ProbeSchedule(ProbeRule(4, 1, certainty, SLOT, agreeing=1))
        self.probed = self.task(self.probing)
        self.other = self.task(None)

    def task(self, probing: ProbeSchedule | None) -> Task:
        sequence = TurnSequence(
            MARKERS, ThinkingBudget(None, STOP), COUNT, inside=True, probing=probing
        )
        draw = lambda: Sampler(DRAWN, 24, PROMPT, seed=5)  # noqa: E731
        task = Task([*PROMPT], sequence, draw, Heard())
        self.scheduler.submit(task)
        return task

    def until(self, true: Callable[[], object]) -> None:
        for _ in range(10_000):
            if true():
                return
            self.scheduler.round()
        raise AssertionError("it never came")

    def end(self) -> None:
        self.until(lambda: heard(self.probed).over and heard(self.other).over)


def heard(task: Task) -> Heard:
    assert isinstance(task.listener, Heard)
    return task.listener


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Beside:
    return Beside(monkeypatch)


def test_the_others_wait_for_one_pass(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: the tokens that are computed between two steps of who runs beside a probe."""
    gaps, real = [0], Qwen3Network.__call__
    step = beside.scheduler.side_by_side.step
    within: list[bool] = []

    def counted(network: Qwen3Network, tokens: Any, *more: Any, **named: Any) -> Any:
        gaps[-1] += 0 if within else tokens.size
        return real(network, tokens, *more, **named)

    def read(network: Qwen3Network, tokens: Any, *more: Any, **named: Any) -> Any:
        gaps[-1] += len(tokens)
        return prefill(network, tokens, *more, **named)

    def stepped(decoders: Any, *more: Any) -> Any:
        within.append(True)
        try:
            return step(decoders, *more)
        finally:
            within.pop()
            gaps.append(0)

    beside.until(lambda: heard(beside.probed).ids and heard(beside.other).ids)
    monkeypatch.setattr("qwen3_mlx.engine.probe.is_complete", lambda text: False)  # the longest
    monkeypatch.setattr(Qwen3Network, "__call__", counted)
    monkeypatch.setattr("qwen3_mlx.engine.probe.prefill", read)
    monkeypatch.setattr(beside.scheduler.side_by_side, "step", stepped)
    beside.until(lambda: heard(beside.other).over)
    assert beside.probing.probes and beside.probing.tokens > LONGEST
    assert max(gaps) == len(STOP), "a pass over the text that ends a thought"


@pytest.mark.parametrize("certainty", [NEVER, ALWAYS])
def test_everybody_says_what_he_says_alone(
    certainty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Beside(monkeypatch, certainty)
    alone, plain = (Run(beside.network, CacheFormat(), one) for one in (certainty, None))
    beside.end()
    assert heard(beside.probed).ids == alone.tokens and heard(beside.other).ids == plain.tokens
    assert beside.probed.sequence.cut == alone.turn.cut
    assert alone.probing is not None
    for name in ("probes", "tokens", "_last"):
        assert getattr(beside.probing, name) == getattr(alone.probing, name)
    assert beside.probing.seconds > 0 and not len(beside.scheduler.side_work)


@pytest.mark.parametrize("kind", ["stop", "answer"])
def test_who_interrupts_ends_the_probe(beside: Beside, kind: Any) -> None:
    beside.until(lambda: beside.probed.probed)
    before, probes = len(heard(beside.probed).ids), beside.probing.probes
    beside.scheduler.round()
    beside.probed.sequence.control.interrupt(kind)
    beside.until(lambda: len(heard(beside.probed).ids) > before)
    assert beside.probing.probes == probes and not beside.probed.probed
    beside.end()
    reason = "interrupted" if kind == "stop" else "length"
    assert beside.probed.sequence.finish_reason == reason
    assert beside.probed.sequence.cut == ("" if kind == "stop" else "user")
    assert len(heard(beside.other).ids) == COUNT


def test_what_a_pass_raises_ends_its_own_sequence(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside.until(lambda: beside.probed.probed)
    fault = RuntimeError("a pass")

    def fails(*_: object) -> None:
        raise fault

    monkeypatch.setattr("qwen3_mlx.engine.probe._likeliest", fails)
    beside.end()
    assert heard(beside.probed).error is fault and heard(beside.other).error is None
    assert len(heard(beside.other).ids) == COUNT and not beside.scheduler.busy


def test_the_end_of_all_ends_probes_too(beside: Beside) -> None:
    beside.until(lambda: beside.probed.probed)
    beside.scheduler.stop_all()
    assert not beside.probed.probed
    beside.end()
    assert beside.probed.sequence.finish_reason == "interrupted"


def test_chunks_and_side_work_take_turns() -> None:
    work, done = SideWork(2), []

    def counts() -> Any:
        while True:
            done.append(1)
            yield

    work.put(counts())
    assert [work.step(by_turns=True) for _ in range(4)].count(True) == 2 == len(done)
    assert all(work.step() for _ in range(4)) and len(done) == 6
