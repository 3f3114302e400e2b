"""What calibration makes of traces whose answers are known beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.chat.probing import Calibration
from qwen3_mlx.engine.probe_schedule import ProbeRule
from training import calibrate, rules
from training.data.chat import FAMILIES


def probe(at: int, value: str | None, certainty: float, right: bool) -> dict[str, Any]:
    return {"at": at, "value": value, "certainty": certainty, "right": right, "all": 0.1,
            "entropy": 1 - certainty, "cost": 5, "answer": 1}  # fmt: skip


def row(number: int) -> dict[str, Any]:
    """Settled behind 30 tokens, sure and wrong before; a tenth is never right."""
    able = number % 10 > 0
    probes = [probe(10, "1", 0.75, False), *(probe(n, "2", 0.97, able) for n in (30, 50, 70))]
    return {"family": list(FAMILIES)[number % 8], "calibration": number % 2 == 0, "tokens": 100,
            "right": able, "probes": probes, "direct": probe(0, "1", 0.3, False),
            "fixed": {"20": [False, 20], "80": [able, 80]}}  # fmt: skip


ROWS = [row(number) for number in range(80)]


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        (ProbeRule(8, 16, 0.9, ()), (True, 70, 3, 87, 6)),
        (ProbeRule(8, 16, 0.9, (), agreeing=1), (True, 30, 2, 58, 4)),
        (ProbeRule(8, 16, 0.7, (), agreeing=1), (False, 10, 1, 29, 2)),
        (ProbeRule(8, 16, 0.98, ()), (True, 100, 3, 87, 6)),
        (ProbeRule(8, 16, 0.9, (), direct_certainty=0.2), (False, 0, 1, 9, 2)),
    ],
)
def test_a_rule_follows_the_schedule(
    rule: ProbeRule, want: tuple[bool, int, int, int, int]
) -> None:
    assert rules.by_schedule(rule)(row(1)) == want


def test_the_report() -> None:
    beside, numbers = calibrate.report(ROWS)
    assert beside["problems"] == 40
    assert {name: beside[name] for name in Calibration.__dataclass_fields__}
    value = numbers["rules"]["value"]
    assert value["numbers"]["certainty"] == 0.8 and value["tokens"] == 30
    assert value["against full"]["value"] == 0 and value["share of tokens"]["value"] == 0.3
    full = numbers["full"]["accuracy"]
    assert value["gain over fixed"]["value"] == pytest.approx(full - full * 10 / 60)
    gain = value["gain over fixed"]
    assert gain["low"] <= gain["value"] <= gain["high"] < 1
    assert numbers["rules"]["all tokens"]["tokens"] == 100  # never sure of wording
    assert sum(one["probes"] for one in numbers["reliability"]) == 160
    assert numbers["rules"]["stable"]["accuracy"] == full


def test_the_rule_of_the_fewest_passes_is_chosen() -> None:
    beside, numbers = calibrate.report(ROWS)
    assert beside["agreeing"] == 1  # two that agree think 20 tokens more
    assert numbers["rules"]["chosen"]["passes"] == 30 + 2 * (1 + 1)
    assert numbers["rules"]["chosen"]["numbers"] == {
        name: beside[name] for name in ("interval", "certainty", "agreeing")
    }


@pytest.mark.parametrize(("wrong", "chosen"), [(2, "quick"), (4, "whole")])
def test_chance_counts_against_a_rule(wrong: int, chosen: str) -> None:
    """Of 1,000 problems 4 lost are 0.4 points and 0.2 of a standard error; 0.5 may be lost."""
    rows = [{"right": True, "number": number} for number in range(1000)]
    kind: rules.Kind = [
        ({"name": "quick"}, lambda row: rules.Ended(row["number"] >= wrong, 10)),
        ({"name": "whole"}, lambda row: rules.Ended(True, 100)),
    ]
    assert rules.choose(kind, rows)[0] == {"name": chosen}
