"""The campaigns run, leave the user's own files alone, and see a fault, a crash and a hang."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests import campaign


@pytest.mark.parametrize("name", ["calls", "recipes", "settings", "conversations"])
def test_a_campaign_without_faults(name: str, state_home: Path) -> None:
    assert list(campaign.faults(name, 0, 20)) == []
    assert not state_home.exists()


def test_what_counts_as_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(rng: random.Random) -> None:
        raise TypeError("not ours")

    monkeypatch.setitem(campaign.CAMPAIGNS, "calls", lambda work: one)
    campaign.work("calls", 0, 0, 1, tmp_path, 10.0)
    assert '"fault": "TypeError: not ours"' in capsys.readouterr().out


class _EndedError(Exception):
    pass


def test_processor_time_ends_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGPROF)

    def end(*_: object) -> None:
        raise _EndedError

    def computes(rng: random.Random) -> None:
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0), "the clock on the wall ends it too"
        began = time.process_time()
        while time.process_time() < began + 30:
            pass

    signal.signal(signal.SIGPROF, end)  # a worker has no handler: the signal ends it
    monkeypatch.setitem(campaign.CAMPAIGNS, "calls", lambda work: computes)
    try:
        campaign.work("calls", 0, 7, 8, tmp_path, 0.1)
    finally:
        signal.signal(signal.SIGPROF, before)
    assert '"fault": "_EndedError: ", "number": 7' in capsys.readouterr().out
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_how_a_worker_ended_is_said() -> None:
    assert campaign.how(-signal.SIGPROF, 10.0, 120.0) == "more than 10 s of processor time"
    assert campaign.how(-signal.SIGKILL, 10.0, 120.0) == "stood still for 120 s"
    assert campaign.how(-signal.SIGSEGV, 10.0, 120.0) == "exit code -11"
