"""A served model's turns run by MLX's operations, and by the kernels once these are proven."""

from __future__ import annotations

from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import pytest

from qwen3_mlx.chat.turns import new_scheduler
from qwen3_mlx.events import Answer, Done
from qwen3_mlx.fit import machine
from qwen3_mlx.metal import launch
from qwen3_mlx.model import Qwen3
from qwen3_mlx.nn import trial
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.serve.kernel_trial import QUIET_SECONDS, KernelTrial
from tests import tiny
from tests.chat.schedules import turn
from tests.metal.judged import keep, proven

pytestmark = pytest.mark.usefixtures("judged")


def test_turns_change_to_the_kernels_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Qwen3(tiny.runtime(3))
    network, scheduler, now = model.runtime.network, new_scheduler(model.runtime), [0.0]
    trying = KernelTrial(model.runtime, scheduler, lambda: False, lambda: now[0])
    run, launched = launch.executor, [0]
    monkeypatch.setattr(machine, "_gpu", lambda _: machine.Machine(2**40, "enough"))

    def counted(given: Any) -> Any:
        launched[0] += 1
        return run(given)

    def timed(*_: Any, **__: Any) -> Any:
        keep(network, proven("fused", "fused"))
        choose_backend(network)
        return proven("fused", "fused"), None

    def reply() -> tuple[str, int]:
        """What was said, and how many tokens of the prompt were kept from before."""
        one = turn(model, "ab cd " * 6, max_tokens=6, thinking=False, seed=3)
        scheduler.submit(one.task)
        while scheduler.busy:
            scheduler.round()
        events = list(one)
        done = events[-1]
        assert isinstance(done, Done)
        said = [event.text for event in events if isinstance(event, Answer)]
        return "".join(said), done.stats.cached_tokens

    monkeypatch.setattr(launch, "executor", counted)
    monkeypatch.setattr(trial, "prove_beside", lambda *_, skipped: None)
    monkeypatch.setattr(trial, "run", timed)
    first, _ = reply()
    assert first and launched == [0]
    scheduler.when_idle = trying.step
    for _ in range(200):
        now[0] += QUIET_SECONDS
        scheduler.round()
        if not trying.under_way:
            break
    again, kept = reply()
    assert not trying.under_way and launched[0] > 0
    assert again == first and kept > 16, "and the conversation kept before is used"
