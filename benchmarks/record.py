"""The record of a measurement: samples, medians, and all that is needed to repeat it."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NOISY = 0.05
"""Coefficient of variation above which a row is flagged."""


def interleaved(
    runs: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1, seed: int = 0
) -> dict[str, list[float]]:
    """Samples of each run, `rounds` a piece, in an order shuffled anew each round.

    Warm-up rounds come first and are not kept.
    """
    samples: dict[str, list[float]] = {name: [] for name in runs}
    shuffle = random.Random(seed).shuffle
    for turn in range(-warm_up, rounds):
        order = list(runs)
        shuffle(order)
        for name in order:
            sample = runs[name]()
            if turn >= 0:
                samples[name].append(sample)
    return samples


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, spread, and the samples themselves."""
    mean = statistics.fmean(samples)
    cv = statistics.stdev(samples) / mean if len(samples) > 1 and mean else 0.0
    median = statistics.median(samples)
    return {"median": median, "cv": cv, "noisy": cv > NOISY, "samples": list(samples)}


def environment() -> dict[str, Any]:
    """Machine, versions, commit and command."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": _device(),
        "cores": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("qwen3-mlx", "mlx", "mlx-lm")},
        "commit": _commit(),
        "command": " ".join(["python", *_relative(sys.argv)]),
    }


def write(name: str, results: Any, folder: Path | None = None) -> Path:
    """Write ``{name}.json`` into `folder`, or $OUT, or benchmarks/results."""
    folder = folder or Path(os.environ.get("OUT") or RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    record = {"environment": environment(), "results": results}
    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return file


def _device() -> str:
    import qwen3_mlx.backend as backend

    import mlx.core as mx

    if backend.device() != "cpu":
        return str(mx.device_info().get("device_name", backend.device()))
    return f"cpu, BLAS {backend.BLAS or 'as linked'}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, cwd=RESULTS.parent, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _relative(arguments: Sequence[str]) -> list[str]:
    root = f"{RESULTS.parents[1]}/"
    return [argument.removeprefix(root) for argument in arguments]
