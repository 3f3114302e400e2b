"""docs/reports.md: each report has a test, and the test is there."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx

from qwen3_mlx.checkpoint import load_network
from tests.quantize.build import MOE, bf16_model

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| [\w/.-]+#\d+ .*`(tests/[\w/]+\.py)::(\w+)` \|$", re.MULTILINE)


def test_every_report_has_a_test_that_is_there() -> None:
    rows = ROW.findall((ROOT / "docs" / "reports.md").read_text("utf-8"))
    assert len(rows) == 49 + 32
    for file, name in rows:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)


def test_an_odd_number_of_experts(tmp_path: Path) -> None:
    """As pruning leaves them."""
    network, config = load_network(bf16_model(tmp_path, MOE | {"num_experts": 5}))
    logits = network(mx.array([[1, 2, 3]]))
    assert config.num_experts == 5 and mx.isfinite(logits).all().item()
