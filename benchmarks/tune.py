"""Launches the matrix kernels with every cut, for a profiler to time them one by one.

    MLX_USE_CUDA_GRAPHS=0 ncu --csv --metrics gpu__time_duration.sum --clock-control none \\
        python -m benchmarks.tune > cuts.csv;  python -m benchmarks.tune --read cuts.csv

Host and launch cost hide a kernel of 3 µs; the profiler does not. Kernel names hold the constants.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from collections import defaultdict
from pathlib import Path

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.metal import attend, down, gate_up, matvec, tuning
from qwen3_mlx.metal.matrix import Matrix

CUTS = [(rows, simds) for rows in (1, 2, 4) for simds in (2, 4, 8)]
REPEATS = 3

ATTEND = tuning.attend
"""The cut that is varied."""


def matrix(*shape: int) -> Matrix:
    """A packed matrix of zeros: a kernel's time doesn't depend on the weights."""
    *lead, columns = shape
    words = mx.zeros((*lead, columns // 8), mx.uint32)
    scales = mx.ones((*lead, columns // 64), mx.bfloat16)
    return Matrix(words, scales, scales, 4, 64)


def set_cut(cut: tuple[int, int]) -> None:
    """Make every matrix kernel use this cut."""
    for kernel in ("matvec", "gate_up", "down"):
        setattr(tuning, kernel, lambda rows, columns: cut)


def launch_all() -> None:
    """Launch every case with every cut."""
    eps = 1e-6
    experts = mx.array([[3, 17, 31, 45, 59, 73, 87, 101]], mx.uint32)
    weights = mx.full((1, 8), 0.125, mx.float32)
    for hidden, ffn in ((2048, 768), (4096, 1536)):
        x, norm = mx.ones((1, 1, hidden), mx.bfloat16), mx.ones((hidden,), mx.bfloat16)
        gate, up, last = (
            matrix(128, ffn, hidden),
            matrix(128, ffn, hidden),
            matrix(128, hidden, ffn),
        )
        h = mx.ones((1, 8, ffn), mx.bfloat16)
        for cut in CUTS:
            set_cut(cut)
            for _ in range(REPEATS):
                mx.eval(gate_up.gate_up(x, gate, up, experts, weights, norm, eps))
                mx.eval(down.down(h, last, experts, x))
    for hidden, rows, ffn in ((2048, (4096, 512, 512), 6144), (4096, (4096, 1024, 1024), 12288)):
        x, norm = mx.ones((1, 1, hidden), mx.bfloat16), mx.ones((hidden,), mx.bfloat16)
        parts = [matrix(n, hidden) for n in rows]
        out, gate, up = matrix(hidden, 4096), matrix(ffn, hidden), matrix(ffn, hidden)
        wide, mixed = mx.ones((1, 1, ffn), mx.bfloat16), mx.ones((1, 1, 4096), mx.bfloat16)
        last = matrix(hidden, ffn)
        for cut in CUTS:
            set_cut(cut)
            for _ in range(REPEATS):
                mx.eval(matvec.matvec(x, parts, norm, eps))
                mx.eval(matvec.matvec(mixed, [out], residual=x))
                mx.eval(matvec.matvec(wide, [last], residual=x))
                mx.eval(gate_up.gate_up(x, gate, up, norm=norm, eps=eps))
    turns = mx.ones((2, 64), mx.float32)
    for heads, held in (((32, 4), 512), ((32, 8), 512), ((32, 4), 4000)):
        qkv = mx.ones((1, 1, (heads[0] + 2 * heads[1]) * 128), mx.bfloat16)
        keys = mx.ones((1, heads[1], -(-held // 256) * 256, 128), mx.bfloat16)
        tail = mx.ones((2, heads[1], 64, 128), mx.bfloat16)
        past = attend.Past(Matrix(keys), Matrix(keys), tail, mx.array([held, 32], mx.int32))
        gain = mx.ones((128,), mx.bfloat16)
        for simds in (4, 8, 16):
            tuning.attend = lambda *args, simds=simds: ATTEND(*args)._replace(simds=simds)
            for _ in range(REPEATS):
                mx.eval(attend.attend(qkv, heads, (gain, gain), eps, turns, past))


def read(path: Path) -> None:
    """Print the medians of a profiler's table, a line a kernel and its constants."""
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('"ID"'))
    times: dict[str, list[float]] = defaultdict(list)
    for row in csv.DictReader(lines[start:]):
        name = re.sub(r"\(.*", "", row["Kernel Name"])
        if "qwen3" in name:
            value = float(row["Metric Value"].replace(",", ""))
            unit = {"ns": 1e-3, "us": 1.0, "ms": 1e3}.get(row["Metric Unit"], 1e-3)
            times[name.replace("custom_kernel_qwen3_", "") + " " + row["Grid Size"]].append(
                value * unit
            )
    for name, values in times.items():
        print(f"{statistics.median(values):8.2f} µs  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", type=Path)
    args = parser.parse_args()
    if args.read:
        read(args.read)
    else:
        launch_all()


if __name__ == "__main__":
    main()
