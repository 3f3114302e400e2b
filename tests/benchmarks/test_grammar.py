"""The script that compares answers in a form with free ones runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import grammar


def test_the_script_compares_all_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["grammar", "--rounds", "1", "--tokens", "6"])
    grammar.main()
    results = json.loads((tmp_path / "grammar-demo.json").read_text("utf-8"))["results"]
    assert set(results) == {"free", "masked", "schema", "drawn"}
    assert all(row["of_free"] > 0 for row in results.values())
