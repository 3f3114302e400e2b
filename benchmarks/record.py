"""The record of a benchmark: `qwen3_mlx.bench.measure`'s numbers as a JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qwen3_mlx.bench.measure import NOISY, environment, interleaved, summary

__all__ = ["NOISY", "environment", "interleaved", "summary", "write"]

RESULTS = Path(__file__).parent / "results"


def write(name: str, results: Any, folder: Path | None = None) -> Path:
    """Write ``{name}.json`` into `folder`, or $OUT, or benchmarks/results."""
    folder = folder or Path(os.environ.get("OUT") or RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    record = {"environment": environment(), "results": results}
    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return file
