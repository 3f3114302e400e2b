"""Interleaved samples in shuffled order, their medians, and a record's environment."""

from __future__ import annotations

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
from typing import Any, TypeVar

Sample = TypeVar("Sample")

NOISY = 0.05
"""Coefficient of variation above which a number is marked as noisy."""

_ROOT = Path(__file__).parents[2]


def interleaved(
    runs: Mapping[str, Callable[[], Sample]], rounds: int, warm_up: int = 1, seed: int = 0
) -> dict[str, list[Sample]]:
    """`rounds` samples of each run, in an order shuffled each round.

    The samples of the warm-up rounds are dropped.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
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
    """Median, coefficient of variation, whether that is noisy, and the samples."""
    mean = statistics.fmean(samples)
    cv = statistics.stdev(samples) / mean if len(samples) > 1 and mean else 0.0
    median = statistics.median(samples)
    return {"median": median, "cv": cv, "noisy": cv > NOISY, "samples": list(samples)}


def environment() -> dict[str, Any]:
    """Machine, versions, commit, command and environment variables, for a record."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device(),
        "cores": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("qwen3-mlx", "mlx", "mlx-lm")},
        "commit": _commit(),
        "command": _command(sys.argv),
        "variables": {
            name: _without_folders(value)
            for name, value in sorted(os.environ.items())
            if name.startswith(("MLX_", "QWEN3_MLX_"))
        },
    }


def device() -> str:
    """The name of MLX's device; on a CPU with its BLAS, without the folder that holds it."""
    import qwen3_mlx.device.backend as backend  # first: it loads a BLAS before MLX

    import mlx.core as mx

    if backend.device() != "cpu":
        return str(mx.device_info().get("device_name", backend.device()))
    return f"cpu, BLAS {Path(backend.BLAS).name if backend.BLAS else 'as linked'}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of a checkout; None for an installed package."""
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _command(arguments: Sequence[str]) -> str:
    """The command line without this machine's folders."""
    program, *rest = arguments or [""]
    name = program.removeprefix(f"{_ROOT}/")
    name = f"python {name}" if name.endswith(".py") else Path(name).name
    return " ".join([name, *(_without_folders(argument) for argument in rest)])


def _without_folders(text: str) -> str:
    """`text` with paths outside the checkout reduced to their last name, for publication."""
    text = text.removeprefix(f"{_ROOT}/")
    option, equals, value = text.rpartition("=")
    if Path(value).is_absolute() or value.startswith("~"):
        value = f"…/{Path(value).name}"
    return f"{option}{equals}{value}"
