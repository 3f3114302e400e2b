"""Kernels of several rows are proven when they are first wanted, and a time-out isn't for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from qwen3_mlx.chat.draft import Drafts
from qwen3_mlx.engine.side_by_side import SideBySide
from qwen3_mlx.metal import prove, verdict
from qwen3_mlx.metal.verdict import MOST_TRIES, Verdict
from qwen3_mlx.nn import trial, trial_rows
from qwen3_mlx.nn.trial_rows import RowsOnDemand
from qwen3_mlx.options import AS_COMPUTED
from tests import tiny
from tests.metal.judged import keep, net, proven

pytestmark = pytest.mark.usefixtures("judged")


def one_row_proven() -> Verdict:
    held = proven("fused", "fused")
    held.right.remove("attend_rows")
    return held


def test_only_where_one_token_steps_are_fused() -> None:
    network = net()
    assert trial_rows.wanted(network) == []  # nobody has tried the others
    file = keep(network, one_row_proven())
    assert "attend_rows" in trial_rows.wanted(network)
    verdict.write(file, proven("stock", "stock"))
    assert trial_rows.wanted(network) == []


def test_they_are_proven_in_a_child_and_kept_with_the_rest() -> None:
    network = net()
    file = keep(network, one_row_proven())
    held = trial_rows.run(network)
    assert held is not None and held == verdict.read(file)
    assert "attend_rows" in held.right and {"step", "matvec"} <= set(held.right)
    assert held.readings == one_row_proven().readings
    assert trial_rows.wanted(network) == [] and trial_rows.run(network) is None


def test_what_took_too_long_is_tried_again_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    network = net()
    file = keep(network, one_row_proven())
    names = trial_rows.wanted(network)

    def late(*_given: Any, names: list[str], **_more: Any) -> Verdict:
        return Verdict(wrong=dict.fromkeys(names, "still running"), late=dict.fromkeys(names, 1))

    with monkeypatch.context() as patch:
        patch.setattr(prove, "prove", late)
        for count in range(1, MOST_TRIES + 1):
            assert trial_rows.wanted(network) == names
            held = trial_rows.run(network)
            assert held is not None and held.late == dict.fromkeys(names, count)
            assert set(held.wrong) == set(names) and not trial.wanted(network)
    assert trial_rows.wanted(network) == []
    held.late = dict.fromkeys(names, 1)
    verdict.write(file, held)
    monkeypatch.setattr(prove, "prove", lambda *_, names, **_more: Verdict(right=names))
    found = trial_rows.run(network)
    assert found is not None and found.wrong == {} and set(names) <= set(found.right)


def test_a_wrong_number_is_for_good() -> None:
    network, held = net(), one_row_proven()
    held.wrong = dict.fromkeys(("attend_rows", "skinny"), "squared error 1")
    keep(network, held)
    assert trial_rows.wanted(network) == []


def test_several_sequences_and_drafts_ask_for_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = net()
    keep(network, one_row_proven())
    tried: list[object] = []
    monkeypatch.setattr(trial_rows, "run", lambda *given: tried.append(given))
    proof = RowsOnDemand(network)
    assert (not tried and not proof.ended()) or tried
    assert proof._thread is None or proof._thread.join() is None
    assert len(tried) == 1
    runtime = tiny.runtime(4)
    drafts = Drafts(runtime, None)
    monkeypatch.setattr(trial_rows, "wanted", lambda *_: ["attend_rows"])
    side = SideBySide(network, AS_COMPUTED)
    side.step([])
    assert len(tried) == 1, "nobody runs beside another"
    assert drafts.way[0] is not None and len(tried) == 1, "rows run plainly: nothing to be proven"


def test_what_a_proof_meets_costs_no_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial_rows, "wanted", lambda *_: ["attend_rows"])

    def broken(*_given: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(trial_rows, "run", broken)
    proof = RowsOnDemand(net())
    proof.ended()
    if proof._thread is not None:
        proof._thread.join()
        assert proof.ended()
    assert not proof.ended()
    assert "were not tried: no room" in capsys.readouterr().err


def test_the_end_of_the_process_ends_the_proof(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its child would go on for minutes, and nobody would keep what it finds out."""
    monkeypatch.setattr(trial_rows, "wanted", lambda *_: ["attend_rows"])

    def unending(*_given: Any, skipped: Callable[[], bool], **_more: Any) -> Verdict:
        while not skipped():
            asked.set()
        raise prove.Skipped

    asked = threading.Event()
    monkeypatch.setattr(prove, "prove", unending)
    network = net()
    keep(network, one_row_proven())
    proof = RowsOnDemand(network)
    assert not proof.ended() and asked.wait(60)
    thread = proof._thread
    proof.close()
    assert thread is not None and not thread.is_alive()
    assert "slept" not in capsys.readouterr().err
