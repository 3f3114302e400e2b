"""Other cuts of the matrix kernels: tried in a child, timed by whole steps, kept, and used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.metal import launch, prove, tuning, verdict
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import text_digest
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.nn import ahead, trial, trial_cuts, trial_outcome
from qwen3_mlx.nn.signature import signatures
from qwen3_mlx.nn.trial_cuts import best_cuts
from qwen3_mlx.options import CacheFormat
from tests.metal.judged import MOE, clock_of, keep, net, plain, proven, said

pytestmark = pytest.mark.usefixtures("judged")

NAMES = ["matvec=8,2", "gate_up=1,8"]


@pytest.mark.parametrize("fault", ["", "cut"])
def test_a_cut_is_tried_in_a_child(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_TEST_FAULT", fault)
    found = prove.prove(signatures(net()), names=NAMES)
    assert found.right == (["matvec=8,2"] if fault else sorted(NAMES))
    assert set(found.wrong) == ({"gate_up=1,8"} if fault else set())


def test_what_is_asked_for_counts_within_and_in_this_thread() -> None:
    before = tuning.matvec(64, 64), tuning.down(64, 64)
    with tuning.cut_by({"matvec": (8, 2)}), tuning.cut_by({"down": (1, 8)}):
        assert (tuning.matvec(64, 64), tuning.down(64, 64)) == ((8, 2), (1, 8))
    assert (tuning.matvec(64, 64), tuning.down(64, 64)) == before


def chosen(
    monkeypatch: pytest.MonkeyPatch, faster: Sequence[int], right: Sequence[str], held: Verdict
) -> tuple[Any, Any]:
    """The cuts, by a clock to which the challengers with these numbers take half the time."""
    monkeypatch.setattr(prove, "prove", lambda *_, names, **__: Verdict(right=list(right or names)))

    def blank(given: Launch) -> list[mx.array]:
        return [mx.zeros(shape, dtype) for shape, dtype in given.outputs.values()]

    def seconds(n: int) -> float:
        number, block = divmod(n, 16)  # of each pair two blocks warm it and two set the pace
        turn, place = divmod(block - 4, 2)
        return 0.01 if block >= 4 and number in faster and place == (turn + 1) % 2 else 0.02

    monkeypatch.setattr(trial, "clock", clock_of(seconds))
    monkeypatch.setattr(launch, "executor", blank)
    return best_cuts(net(**MOE), CacheFormat(), held, trial.never)


def test_the_fastest_is_kept_kernel_after_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second winner of a kernel beat the first; both sides of a pair have what won before."""
    met: list[tuple[Any, Any]] = []
    pair = trial_cuts._runs

    def noted(*args: Any) -> Any:
        runs = pair(*args)
        met.append((runs["stock"].step.cuts, runs["fused"].step.cuts))
        return runs

    monkeypatch.setattr(trial_cuts, "_runs", noted)
    cuts, gains = chosen(monkeypatch, (0, 1, 5), (), proven("stock", "fused"))
    assert cuts == {"matvec": (2, 4), "gate_up": (1, 8)}
    assert gains == {"matvec=8,2": 2.0, "matvec=2,4": 2.0, "gate_up=1,8": 2.0}
    assert met[1] == ({"matvec": (8, 2)}, {"matvec": (2, 4)})
    assert met[5] == ({"matvec": (2, 4)}, {"matvec": (2, 4), "gate_up": (1, 8)})
    assert met[6] == (cuts, cuts | {"down": (8, 2)})


def test_only_right_ones_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts, _ = chosen(monkeypatch, range(9), ("down=2,4",), proven("fused", "fused"))
    assert cuts == {"down": (2, 4)}


def test_a_tie_is_the_present_cut_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, (), (), proven("fused", "fused")) == ({}, {})


def test_there_may_be_nothing_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, range(9), (), proven("stock", "stock")) == ({}, {})
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    assert chosen(monkeypatch, range(9), (), proven("fused", "fused")) == ({}, {})


def test_the_verdict_s_cuts_decode(monkeypatch: pytest.MonkeyPatch, launches: list[Launch]) -> None:
    """Kept, read again, in the step's texts and in those compiled ahead; the same tokens."""
    network = net()
    off = plain(network, monkeypatch)
    held = proven("fused", "fused")
    held.cuts = {"matvec": (2, 4), "gate_up": (1, 8)}
    file = keep(network, held)
    assert verdict.read(file) == held
    launches.clear()
    assert said(network) == off
    used = {(one.kernel, one.constants["ROWS"], one.constants["SIMDS"]) for one in launches
            if one.kernel in held.cuts}  # fmt: skip
    assert used == {("matvec", 2, 4), ("gate_up", 1, 8)}
    texts = {text_digest(one) for one in launches}
    proven_ones = ahead._proven(network, CacheFormat(), signatures(network), held)
    assert texts <= {text_digest(one) for one in proven_ones}


@pytest.mark.parametrize("cuts", [3, {"matvec": 8}, {"matvec": ["x", 2]}, {"matvec": [1, 2, 3]}])
def test_damaged_cuts_are_no_verdict(cuts: Any) -> None:
    file = keep(net(), proven("fused", "fused"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cuts": cuts}))
    assert verdict.read(file) is None


def test_the_trial_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    network, won = net(), {"matvec": (8, 2)}
    monkeypatch.setattr(prove, "prove", lambda *_, **__: proven("fused", "fused"))
    monkeypatch.setattr(trial, "readings", lambda *_: proven("fused", "fused").readings)
    monkeypatch.setattr(Verdict, "undecided", True)
    held, _ = trial.run(network, further=lambda *_: (won, {"matvec=8,2": 1.25}))
    assert held is not None and held.cuts == won
    assert "matvec=8,2: 1.25 × the cut before it" in trial_outcome.described(held)
    again, _ = trial.run(network, again=True)
    assert again is not None and again.cuts == {}
