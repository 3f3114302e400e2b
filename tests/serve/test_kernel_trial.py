"""A server tries its model's kernels by itself: nobody else may ever run a chat on that machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import pytest

from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prefixes import Prefixes
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.side_by_side import SideBySide
from qwen3_mlx.metal import prove
from qwen3_mlx.metal.verdict import Reading, Verdict
from qwen3_mlx.model import Qwen3
from qwen3_mlx.nn import ahead, trial, trial_rows
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat
from qwen3_mlx.serve import kernel_trial
from qwen3_mlx.serve.kernel_trial import PAUSE_SECONDS, QUIET_SECONDS, TRIES, KernelTrial
from tests import tiny
from tests.oracle import assert_close
from tests.serve.conftest import serving
from tests.serve.server import wait_for

FASTER = Verdict(right=["attend"], readings={"256": Reading({}, {"fused": 2.0}, "fused", "")})


class Rig:
    """A trial with a clock, a stand-in for the scheduler, and what was said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.said, self.calls = 100.0, list[str](), list[str]()
        self.scheduler: Any = SimpleNamespace(
            counts=SimpleNamespace(steps=0), busy=False, last_round=0.0
        )
        self.scheduler.side_by_side = self._noting("reconsider")
        self.scheduler.prefixes = self._noting("renew")
        drafts = self._noting("reconsider")
        runtime: Any = SimpleNamespace(
            network=None, cache_format=None, name="a model", drafts=drafts
        )
        self.launches: list[Any] = []
        monkeypatch.setattr(ahead, "launches_of_arms", lambda *_: self.launches)
        monkeypatch.setattr(kernel_trial, "compile_ahead", self._compiled)
        self.ending, self.answer = False, threading.Event()
        self.trial = KernelTrial(runtime, self.scheduler, lambda: self.ending, lambda: self.now)
        self.prove: Callable[[Any], str | None] = lambda skipped: None
        self.run: Callable[[Any], Any] = lambda skipped: (FASTER, None)
        monkeypatch.setattr(kernel_trial, "say", self.said.append)
        monkeypatch.setattr(trial, "wanted", lambda *_: True)
        monkeypatch.setattr(trial, "prove_beside", lambda *_, skipped: self.prove(skipped))
        monkeypatch.setattr(trial, "run", lambda *_, rows, skipped: self.run(skipped))

    def _noting(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(**{method: lambda: self.calls.append(method)})

    def _compiled(self, launches: Any) -> int:
        self.calls += [f"compile {one}" for one in launches]
        return len(launches)

    def proven(self) -> None:
        """Start, and wait until the child processes have ended."""
        assert self.trial.step() and self.trial.under_way
        self.trial._thread.join(10)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_kernels_that_are_faster_are_used_from_then_on(rig: Rig) -> None:
    rig.proven()
    assert rig.trial.step() and not rig.trial.under_way
    assert rig.calls == ["reconsider", "reconsider", "renew"]
    assert (
        "once" in rig.said[0]
        and rig.said[1] == "kernels: fused steps run, 2.00 × as fast as MLX's own"
    )
    assert not rig.trial.step() and len(rig.said) == 2


def test_kernels_are_compiled_one_a_round(rig: Rig) -> None:
    """A request waits for one of them at most."""
    rig.launches = ["a", "b"]
    rig.proven()
    for done in (["compile a"], ["compile a", "compile b"]):
        assert rig.trial.step() and rig.calls == done and rig.trial.under_way
    assert rig.trial.step() and not rig.trial.under_way


def test_kernels_that_can_not_be_listed_end_the_trial_and_cost_no_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(ahead, "launches_of_arms", fails)
    rig.proven()
    assert rig.trial.step() and not rig.trial.under_way
    assert "not tried: no memory" in rig.said[-1] and not rig.trial.step()


@pytest.mark.parametrize("what", ["side_by_side", "prefixes"])
def test_a_result_that_can_not_be_applied_fails_in_one_round_only(rig: Rig, what: str) -> None:
    def fails() -> None:
        raise RuntimeError("no memory")

    setattr(rig.scheduler, what, SimpleNamespace(reconsider=fails, renew=fails))
    rig.proven()
    with pytest.raises(RuntimeError, match="no memory"):
        rig.trial.step()
    assert not rig.trial.under_way and not rig.trial.step()


def test_where_nothing_is_to_be_tried_nothing_is_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "wanted", lambda *_: False)
    assert not rig.trial.step() and not rig.trial.under_way and rig.said == []


def test_requests_are_answered_while_child_processes_prove(rig: Rig) -> None:
    going = threading.Event()
    rig.prove = lambda skipped: None if going.wait(10) else ""
    assert rig.trial.step()
    assert not rig.trial.step() and rig.trial.under_way, "nothing is timed yet, nobody waits"
    going.set()
    rig.trial._thread.join(10)
    assert rig.trial.step()


def test_steps_are_timed_in_a_quiet_moment_alone(rig: Rig) -> None:
    rig.proven()
    rig.scheduler.counts.steps = 5
    assert not rig.trial.step()
    rig.now += QUIET_SECONDS - 0.1
    assert not rig.trial.step()
    rig.now += 0.2
    assert rig.trial.step() and not rig.trial.under_way


def test_a_request_ends_the_timing_which_begins_anew(rig: Rig) -> None:
    def interrupted(skipped: Callable[[], bool]) -> Any:
        assert not skipped()
        rig.scheduler.busy = True
        assert skipped() and rig.scheduler.last_round == rig.now, "the server isn't stuck"
        raise prove.Skipped

    rig.run = interrupted
    rig.proven()
    assert rig.trial.step() and rig.trial.under_way
    rig.scheduler.busy = False
    assert not rig.trial.step(), "it rests a while"
    rig.now += PAUSE_SECONDS
    rig.run = lambda skipped: (FASTER, None)
    assert rig.trial.step() and rig.calls


def test_timing_is_given_up_where_requests_never_leave_time(rig: Rig) -> None:
    def interrupted(skipped: Any) -> Any:
        raise prove.Skipped

    rig.run = interrupted
    rig.proven()
    for _ in range(TRIES):
        assert rig.trial.under_way and rig.trial.step()
        rig.now += PAUSE_SECONDS
    assert not rig.trial.under_way and "no time" in rig.said[-1] and not rig.calls


@pytest.mark.parametrize("at", ["prove", "kept", "slept", "run", "run kept"])
def test_a_failure_costs_one_line_and_plain_operations_run(rig: Rig, at: str) -> None:
    def fail(skipped: Any) -> Any:
        raise RuntimeError("a device went away")

    def slept(skipped: Any) -> Any:
        raise prove.Skipped

    rig.prove = {"prove": fail, "kept": lambda _: "disk full", "slept": slept}.get(at, rig.prove)
    rig.run = {"run": fail, "run kept": lambda _: (FASTER, "disk full")}.get(at, rig.run)
    rig.proven()
    assert rig.trial.step() and not rig.trial.under_way and not rig.calls
    assert len(rig.said) == 2 and "plain operations run" in rig.said[1]
    assert any(word in rig.said[1] for word in ("went away", "disk full", "slept"))


def test_the_servers_end_ends_the_child_processes(rig: Rig) -> None:
    def waits(skipped: Callable[[], bool]) -> Any:
        while not skipped():
            threading.Event().wait(0.01)
        raise prove.Skipped

    rig.prove = waits
    assert rig.trial.step()
    rig.trial.close()
    assert not rig.trial._thread.is_alive()
    assert rig.trial.step() and len(rig.said) == 1, "no line about it"


def test_a_served_model_says_whether_it_tries(demo: Qwen3) -> None:
    with serving(demo) as server:
        wait_for(lambda: b"qwen3_mlx_trying_kernels 0\n" in server.get("/metrics").body)


class Other(KVCache):
    """A kernel's cache."""


class Step:
    """A fused step, by which caches are made."""

    fault = ""

    def __init__(self, network: Qwen3Network) -> None:
        self.network = network

    def make_cache(self) -> list[KVCache]:
        return [Other(self.network.context) for _ in self.network.layers]


def test_kept_conversations_move_into_the_kernels_caches() -> None:
    network, _ = tiny.network(5)
    prompt = [(7 * n) % 20 for n in range(40)]
    kept = PromptCache(network)
    prefill(network, prompt, kept)

    def made() -> PromptCache:
        cache = PromptCache(network)
        cache.step = Step(network)  # type: ignore[assignment]
        return cache

    prefixes = Prefixes(made, 10**9)
    prefixes.add(kept)
    prefixes.renew()
    (moved,) = prefixes.idle()
    assert moved.tokens == prompt and {type(one) for one in moved.layers} == {Other}
    whole = PromptCache(network)
    assert_close(prefill(network, [3], moved), prefill(network, [*prompt, 3], whole))


def test_a_window_that_lost_rows_keeps_its_conversation() -> None:
    network, _ = tiny.network(5)
    form = CacheFormat(window=64)
    kept = PromptCache(network, form)
    for n in range(100):
        prefill(network, [n % 20], kept)
    prefixes = Prefixes(lambda: PromptCache(network, form), 10**9)
    prefixes.add(kept)
    prefixes.renew()
    (held,) = prefixes.idle()
    assert len(held.tokens) == 100 and {layer.offset for layer in held.layers} == {100}


def test_rows_are_proven_though_the_first_step_of_several_came_too_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a single token's kernels were proven there was nothing to ask."""
    network, _ = tiny.network(5)
    asked, names = list[bool](), list[str]()
    monkeypatch.setattr(trial_rows, "wanted", lambda *_: asked.append(True) or names)
    monkeypatch.setattr(trial_rows, "run", lambda *_: None)
    side = SideBySide(network, AS_COMPUTED)
    assert not side._proof.ended() and not side._proof.ended() and len(asked) == 1
    side.reconsider()
    names.append("attend_rows")
    for _ in range(1000):
        if side._proof.ended():
            break
        time.sleep(0.01)
    assert len(asked) == 2 and not side.trying
