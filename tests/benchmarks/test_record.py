"""Records are published: they tell of the machine, not of its folders."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

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


def test_a_blas_is_named_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "device", lambda: "cpu")
    for blas, named in (
        ("/home/me/.venv/lib/libscipy_openblas.so", "libscipy_openblas.so"),
        ("libopenblas.so.0", "libopenblas.so.0"),
        (None, "as linked"),
    ):
        monkeypatch.setattr(backend, "BLAS", blas)
        assert measure.environment()["device"] == f"cpu, BLAS {named}"


def texts(value: Any) -> Iterator[str]:
    """Every text in a record, names included."""
    if isinstance(value, dict):
        yield from (one for pair in value.items() for part in pair for one in texts(part))
    elif isinstance(value, list):
        yield from (one for part in value for one in texts(part))
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("record", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_no_record_that_is_kept_names_one(record: Path) -> None:
    found = texts(json.loads(record.read_text("utf-8")))
    assert not [text for text in found if FOLDER.search(text)]
