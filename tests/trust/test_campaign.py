"""The campaigns run, leave the user's own files alone, and see a fault, a crash and a hang."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import campaign


@pytest.mark.parametrize("name", ["calls", "recipes", "settings", "conversations"])
def test_a_campaign_without_faults(name: str, state_home: Path) -> None:
    assert list(campaign.faults(name, 0, 20, 10.0)) == []
    assert not state_home.exists()


def test_what_counts_as_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(rng: random.Random) -> None:
        raise TypeError("not ours")

    monkeypatch.setitem(campaign.CAMPAIGNS, "calls", lambda work: one)
    campaign.work("calls", 0, 0, 1, tmp_path)
    assert '"fault": "TypeError: not ours"' in capsys.readouterr().out
