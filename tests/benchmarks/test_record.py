"""Records are published: they tell of the machine, not of its folders."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.record import RESULTS
from qwen3_mlx.bench import measure

FOLDER = re.compile(r"""(?:^|[\s="])(?:/[\w.-]+/|~/|[A-Z]:\\)""")


def test_a_record_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(measure.__file__).parents[2])
    given = [f"{root}/benchmarks/kv.py", "--out", "/home/me/out", "--model=/home/me/m", "~/x", "8b"]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setenv("QWEN3_MLX_HOME", "/home/me/own")
    monkeypatch.setenv("MLX_ENABLE_TF32", "0")
    found = measure.environment()
    assert found["command"] == "python benchmarks/kv.py --out …/out --model=…/m …/x 8b"
    assert found["variables"]["QWEN3_MLX_HOME"] == "…/own"
    assert found["variables"]["MLX_ENABLE_TF32"] == "0"


@pytest.mark.parametrize("record", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_no_record_that_is_kept_names_one(record: Path) -> None:
    environment = json.loads(record.read_text("utf-8")).get("environment", {})
    texts = [str(environment.get("command")), *environment.get("variables", {}).values()]
    assert not [text for text in texts if FOLDER.search(text)]
