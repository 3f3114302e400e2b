"""A network over several processes gives one process's logits and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import ring

ROUNDING = 4
"""One process differs from itself if it reads the prompt in other chunks: the demo by up to 1e-11
with some processors' BLAS, and more where keys and values round to neighbouring levels of a packed
cache. Several processes may differ from it by this many times as much."""


@pytest.mark.slow
@pytest.mark.parametrize(("size", "cases", "most"), [(2, 28, 0.56), (3, 6, 0.45), (4, 5, 0.34)])
def test_processes_that_share_networks_compute_what_one_does(
    size: int, cases: int, most: float, tmp_path: Path
) -> None:
    found = json.loads(ring.run("tests.nn.ranks", size, tmp_path))
    print(json.dumps(found, indent=1))
    assert len(found) == cases
    for case, row in found.items():
        exact = "pipeline" in case  # the same operations, one machine after another
        assert row["rounding"] <= (1e-3 if "bits" in case else 1e-10), (case, row["rounding"])
        bound = 0 if exact else max(1e-11, ROUNDING * row["rounding"])
        assert row["same"], case
        assert row["nmse"] <= bound, (case, row["nmse"])
        assert row["tokens"] > 2, case  # it wanders, so that equal tokens say something
        if "bytes" in row and "attention whole" not in case:
            assert row["bytes"] < most, (case, row["bytes"])
