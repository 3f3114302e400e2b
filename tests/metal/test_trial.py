"""The trial: who wins, by which clock, and what noise, memory and faults do to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.cli.commands import doctor
from qwen3_mlx.metal import awake, launch, prove
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.nn import trial, trial_outcome
from qwen3_mlx.nn.fused_step import unavailable_reason
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat
from tests.metal.judged import clock_of, keep, net, plain, proven, said

pytestmark = pytest.mark.usefixtures("judged")


def rounds(*gains: float, spread: float = 0.0) -> list[Any]:
    """Six rounds in which `fused` is so many times as fast as stock."""
    stock = [1 + spread * (-1) ** number for number in range(len(gains))]
    return [{"stock": t, "fused": t / gain} for t, gain in zip(stock, gains, strict=True)]


DECISIONS = {
    "clearly faster": (rounds(*[1.4] * 6), "fused", False),
    "just so": (rounds(*[1.031] * 6), "fused", False),
    "one round against it": (rounds(0.9, *[1.1] * 5), "fused", False),
    "a tie is stock's": (rounds(*[1.02] * 6), "stock", False),
    "slower": (rounds(*[0.8] * 6), "stock", False),
    "two rounds against it": (rounds(0.9, 0.9, *[1.1] * 4), "stock", True),
    "stock's own times far apart": (rounds(*[1.1] * 6, spread=0.3), "stock", True),
    "far apart, but twice as fast": (rounds(*[2.0] * 6, spread=0.3), "fused", False),
    "cut short": (rounds(*[1.5] * 3), "stock", True),
    "an hour in a block of stock's": (
        [*rounds(*[1.1] * 5), {"stock": 3600.0, "fused": 0.9}],
        "stock",
        True,
    ),
    "and in one of fused's": (rounds(*[1.4] * 5, 1 / 3600), "fused", False),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_who_wins(name: str) -> None:
    given, winner, noise = DECISIONS[name]
    reading = trial_outcome.decide(given, 8)
    assert (reading.winner, bool(reading.noise)) == (winner, noise)


def test_the_faster_of_two_winners() -> None:
    given = [{"stock": 1.0, "hybrid": 0.7, "fused": 0.8}] * 6
    assert trial_outcome.decide(given, 8).winner == "hybrid"  # type: ignore[arg-type]  # a dict of its own


@pytest.mark.parametrize(("hybrid", "winner"), [(1.11, "fused"), (2.2, "hybrid"), (0.95, "fused")])
def test_doubt_about_one_arm_takes_nothing_from_another(hybrid: float, winner: str) -> None:
    """Seen on an H200: 8B's hybrid steps gave 1.11 where stock's own lay 15 % apart; fused 2.13."""
    given = [one | {"hybrid": one["stock"] / hybrid} for one in rounds(*[2.13] * 6, spread=0.15)]
    reading = trial_outcome.decide(given, 8)
    assert (reading.winner, reading.noise) == (winner, "")
    unsure = [{**one, "fused": one["stock"] / 1.05} for one in given]
    alone = trial_outcome.decide(unsure, 8)
    assert (alone.winner, bool(alone.noise)) == (
        ("hybrid", False) if hybrid > 2 else ("stock", True)
    )


def test_a_small_clear_gain_leaves_a_much_better_arm_to_be_timed_again() -> None:
    """The clear winner runs meanwhile."""
    noisy = [
        {"stock": 1.0, "hybrid": 1 / 1.05, "fused": 1 / gain} for gain in (2, 2, 2, 0.9, 2, 0.9)
    ]
    reading = trial_outcome.decide(noisy, 8)  # type: ignore[arg-type]  # a dict of its own
    assert reading.winner == "hybrid" and "4 of 6 rounds" in reading.noise
    close = [
        one | {"fused": 1 / gain}
        for one, gain in zip(noisy, (1.07, 1.07, 1.07, 0.9, 1.07, 0.9), strict=True)
    ]
    assert trial_outcome.decide(close, 8).noise == ""  # type: ignore[arg-type]


def blank(given: Launch) -> list[mx.array]:
    """What a kernel gives where only time counts."""
    return [mx.zeros(shape, dtype) for shape, dtype in given.outputs.values()]


def block(network: Qwen3Network, seconds: Callable[[int], float], patch: Any) -> Any:
    """What a trial decides by a clock after which the n-th block of steps took so long."""
    patch.setattr(trial, "clock", clock_of(seconds))
    patch.setattr(launch, "executor", blank)
    return trial.readings(network, CacheFormat(), ["stock", "hybrid", "fused"])


def test_whole_steps_are_timed_and_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock to which the third arm, in rounds forwards and backwards, is twice as fast."""
    network = net()
    mx.random.seed(3)
    before = [mx.array(state) for state in mx.random.state]

    def seconds(n: int) -> float:
        number, place = divmod(n % 24 - 6, 3)  # two blocks of each arm come before the rounds
        arm = place if number % 2 == 0 else 2 - place
        return 0.01 if n % 24 >= 6 and arm == 2 else 0.02

    found = block(network, seconds, monkeypatch)
    assert list(found) == ["5", "9"]
    assert [reading.winner for reading in found.values()] == ["fused", "fused"]
    assert found["5"].gains == {"hybrid": 1.0, "fused": 2.0}
    after = list(mx.random.state)
    assert all(bool(mx.array_equal(a, b)) for a, b in zip(before, after, strict=True))


def test_a_noisy_clock_decides_nothing_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    network = net()
    off = plain(network, monkeypatch)
    right = Verdict(right=proven("fused", "fused").right)
    keep(network, right)
    monkeypatch.setattr(launch, "executor", blank)
    for tries in (1, 2, 3):
        assert trial.wanted(network)
        monkeypatch.setattr(trial, "clock", clock_of(lambda n: 0.01 * (1 + n * n * 7 % 5)))
        held, _ = trial.run(network)
        assert held is not None and held.tries == tries
        assert all(reading.noise for reading in held.readings.values())
        assert "undecided" in (unavailable_reason(network) or "")
        assert said(network) == off
    assert not trial.wanted(network)


def test_a_slow_model_is_timed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the shorter past alone, in blocks of four steps."""
    network = net()
    steps: list[int] = []
    seconds = trial.Run.seconds
    monkeypatch.setattr(trial.Run, "seconds", lambda s, n: (steps.append(n), seconds(s, n))[1])
    found = block(network, lambda n: 0.5, monkeypatch)
    assert list(found) == ["5"] and steps == [2] * 3 + [1] * 3 + [4] * 18


def test_an_arm_that_throws_while_it_is_timed_does_not_win(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = net()
    keep(network, Verdict(right=proven("fused", "fused").right))

    def thrower(given: Launch) -> list[mx.array]:
        if given.kernel == "matvec":
            raise ValueError("no")
        return blank(given)

    monkeypatch.setattr(trial, "clock", clock_of(lambda n: 0.02))
    monkeypatch.setattr(launch, "executor", thrower)
    found = trial.readings(network, CacheFormat(), ["stock", "hybrid", "fused"])
    assert all("fused" not in reading.rates for reading in found.values())


def test_memory_that_isn_t_there_leaves_the_longer_past_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qwen3_mlx.errors import OutOfMemoryError

    def require(nbytes: int, doing: str) -> None:
        if asked:
            raise OutOfMemoryError("out of memory")
        asked.append(nbytes)

    asked: list[int] = []
    monkeypatch.setattr(trial.guard, "require", require)
    assert list(block(net(), lambda n: 0.01, monkeypatch)) == ["5"]


def test_a_shorter_context_that_is_asked_for_times_the_same_pasts() -> None:
    """The verdict is kept for every context."""
    network, capped = net(), net()
    capped.context = 10
    assert list(trial.pasts(capped, 2)) == list(trial.pasts(network, 2))


def test_a_machine_that_slept_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock on the wall went on, the one that blocks are timed by did not."""
    wall = iter(range(0, 10**6, 60))
    monkeypatch.setattr(awake, "now", lambda: (float(next(wall)), time.monotonic()))
    found = block(net(), lambda n: 0.02 if n % 3 == 0 else 0.01, monkeypatch)
    assert {(one.winner, one.noise) for one in found.values()} == {
        ("stock", "the machine slept meanwhile")
    }


def test_nor_is_a_proof_kept_in_which_it_slept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever its children found: tried again at the next start, forced or not."""
    wall = iter(range(0, 10**6, 60))
    monkeypatch.setattr(awake, "now", lambda: (float(next(wall)), time.monotonic()))
    monkeypatch.setenv("QWEN3_TEST_FAULT", "exit")
    network = net()
    off = plain(network, monkeypatch)
    with pytest.raises(prove.Skipped):
        trial.run(network)
    assert "nothing was found out" in doctor.try_kernels(network, "x")[0][1]
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "auto")
    assert "not yet tried" in (unavailable_reason(network) or "")
    assert "slept meanwhile" in capfd.readouterr().err
    assert said(network) == off and not (tmp_path / "kernels").exists()
