"""Everything that a GPU session measures, in one command, the most wanted first.

    python -m benchmarks.gpu --seconds 540 [--phases accuracy tokens moe dense …]
    python -m benchmarks.gpu --tiny --seconds 200        # tries the script, on any machine

Each phase is a process of its own with a time limit, so that a kernel which compiles for minutes
costs its own phase only. It writes ``gpu-PHASE.json`` (into $OUT, else benchmarks/results) after
every case, and prints every line at once. Accuracy runs with MLX_ENABLE_TF32=0, speed with 1: on
CUDA 0 makes MLX's grouped product slow in every dtype (grouped_gemm_unaligned.cu). mlx-lm's
products compile at first use, 30B-A3B's for two and a half minutes; a process of its own does that
beside the phases that measure no time, and the others wait for it.

At the end the targets are stated with what was read. The training of demo-moe is a command of its
own: training/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import RESULTS, START, say
from benchmarks.record import RESULTS as FOLDER


@dataclass(frozen=True, slots=True)
class Phase:
    """One process: what it runs, its limit in seconds, and its environment."""

    name: str
    limit: float
    cases: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, tiny: bool) -> list[str]:
        """The process to start."""
        command = [sys.executable, "-m"]
        if self.name == "memory":
            return [*command, "benchmarks.memory", *(["--cases", "tiny"] if tiny else [])]
        if self.name == "long":
            command += ["benchmarks.long", "--name", "gpu-long"]
        else:
            command += ["benchmarks.gpu", "--case", self.cases or self.name, "--name", self.name]
        return [*command, *(["--tiny"] if tiny else [])]


EXACT, FAST = {"MLX_ENABLE_TF32": "0"}, {"MLX_ENABLE_TF32": "1"}
PHASES = [
    Phase("accuracy", 75, environment=EXACT),
    Phase("memory", 90, environment=FAST),
    Phase("moe", 150, environment=FAST),
    Phase("dense", 80, environment=FAST),
    Phase("tokens", 45, environment=EXACT),
    Phase("long", 120, environment=FAST),
    Phase("rows-dense", 400, environment=FAST),
    Phase("rows-moe", 500, environment=FAST),
    Phase("drafts-dense", 200, environment=FAST),
    Phase("drafts-moe", 250, environment=FAST),
    Phase("crossover", 100, environment=FAST),
    Phase("host-20-ops", 45, "host", FAST | {"MLX_MAX_OPS_PER_BUFFER": "20"}),
    Phase("host-50-ops", 45, "host", FAST | {"MLX_MAX_OPS_PER_BUFFER": "50"}),
    Phase("host-no-graphs", 45, "host", FAST | {"MLX_USE_CUDA_GRAPHS": "0"}),
    Phase("more", 90, environment=EXACT),
]
"""The most wanted first."""

UNTIMED = ("accuracy", "tokens", "memory", "more")
"""Phases beside which something may be compiled."""


def run(phase: Phase, left: float, tiny: bool) -> str:
    """Run a phase; returns in words how it ended."""
    limit = min(phase.limit, left)
    say(f"== {phase.name}, at most {limit:.0f} s")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | phase.environment
    try:
        done = subprocess.run(phase.command(tiny), env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"cut after {limit:.0f} s; what it had measured is kept"
    return "done" if done.returncode == 0 else f"exit {done.returncode}"


def compile_theirs() -> subprocess.Popen[bytes]:
    """Start compiling what mlx-lm's networks need, in the background."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--case", "compile", "--name", "compile"]
    return subprocess.Popen(command, env=os.environ | {"PYTHONUNBUFFERED": "1"} | FAST)


def record(name: str) -> dict[str, Any]:
    """Read a phase's record; empty if there is none."""
    file = Path(os.environ.get("OUT") or FOLDER) / f"gpu-{name}.json"
    if not file.is_file():
        return {}
    results: dict[str, Any] = json.loads(file.read_text("utf-8"))["results"]
    return results


def verdicts() -> dict[str, str]:
    """Each target with the figure that was measured for it."""
    moe, dense = record("moe"), record("dense")
    lines = {
        "30B-A3B decode >= 3 x mlx-lm": _ratio(moe, "decode", "fused"),
        "8B decode >= 1.5 x mlx-lm": _ratio(dense, "decode", "fused"),
        "30B-A3B prefill >= 8 x mlx-lm": _ratio(moe, "prefill", "auto"),
        "8B prefill >= 2 x mlx-lm": _ratio(dense, "prefill", "grouped"),
    }
    for tokens, row in moe.get("blocks fused+empty+stock", {}).items():
        fused, empty, stock = (row[arm]["median"] for arm in ("fused", "empty", "stock"))
        goal = "<= 20 µs over an empty block" if tokens == "T=1" else "faster than stock"
        lines[f"block {tokens}: {goal}"] = f"{fused - empty:.1f} µs over, stock {stock - empty:.1f}"
    rows = record("accuracy").get("accuracy", {}).values()
    worse = [label for row in rows for label, bad in row.get("worse", {}).items() if bad]
    lines["NMSE no worse than stock's"] = ", ".join(worse) or ("yes" if rows else "not read")
    found = record("tokens").get("tokens", {}).items()
    bad = [name for name, row in found if row["differs_at"] is not None or not row["fused"]]
    lines["tokens identical"] = ", ".join(bad) or ("yes" if found else "not read")
    return lines


def _ratio(results: dict[str, Any], key: str, arm: str) -> str:
    rows: dict[str, Any] = next(
        (row for name, row in results.items() if name.startswith(f"{key} ")), {}
    )
    if arm not in rows or "mlx-lm" not in rows:
        return "not read"
    mine, other = (rows[name].get("decode", rows[name])["median"] for name in (arm, "mlx-lm"))
    return f"{mine / other:.2f} x ({mine:.0f} against {other:.0f} tok/s)"


def run_cases(phase: str, name: str, tiny: bool) -> None:
    """Run one phase's cases in this process; the record is rewritten after each."""
    os.environ.setdefault("QWEN3_MLX_KERNELS", "auto")
    import qwen3_mlx.device.backend as backend

    import mlx.core as mx

    from benchmarks.gpu import rates
    from benchmarks.gpu.cases import cases, on_the_shim
    from benchmarks.record import write

    if tiny:
        rates.SIZES.shrink()
        if backend.device() == "cpu":
            on_the_shim()
    say(f"{phase} on {backend.device()} {mx.device_info().get('device_name', '')}")
    for case, measure in cases()[phase].items():
        begin = time.perf_counter()
        try:
            measure()
        except Exception as fault:
            RESULTS[f"failed {case}"] = f"{type(fault).__name__}: {fault}"
            say(f"{case} FAILED: {type(fault).__name__}: {str(fault)[:400]}")
        RESULTS.setdefault("seconds", {})[case] = time.perf_counter() - begin
        write(f"gpu-{name}", RESULTS)
    say(f"done after {time.perf_counter() - START:.0f} s")


def run_phases(names: list[str], seconds: float, tiny: bool) -> None:
    """Run the phases named, as far as the time goes."""
    compiling = None if tiny else compile_theirs()
    for phase in PHASES:
        if phase.name not in names:
            continue
        if compiling and phase.name not in UNTIMED:
            compiling.wait()
        left = seconds - (time.perf_counter() - START)
        ended = run(phase, left, tiny) if left > 10 else "no time was left"
        say(f"{phase.name}: {ended}")


def main() -> None:
    """Run the phases, and say how the targets stand."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [phase.name for phase in PHASES]
    parser.add_argument("--seconds", type=float, default=540, help="for everything")
    parser.add_argument("--phases", nargs="+", choices=names, default=names)
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--case", help="run one phase's cases in this process")
    parser.add_argument("--name", help="of that phase's record, behind gpu-")
    args = parser.parse_args()
    if args.case:
        run_cases(args.case, args.name or args.case, args.tiny)
        return
    run_phases(args.phases, args.seconds, args.tiny)
    for target, reading in verdicts().items():
        say(f"{target}: {reading}")


if __name__ == "__main__":
    main()
