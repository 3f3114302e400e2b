"""Loading an 8B 4-bit checkpoint: ours against mlx-lm's, each in a process of its own, in turns.

``python -m benchmarks.loading`` writes random weights of the shape (4.6 GB, to a temporary folder
that is removed), loads them 15 times with each, and writes ``results/loading.json``;
``--layers 2 --rounds 1`` tries it in little. The time is that of the load alone, imports left out:
config, network and weights in memory, without the tokenizer, on both sides. The file is in the
system's cache for both after the first round, which is not counted. Peak memory is MLX's own and
the process's (Linux), beside the final size and one layer's.

On the CPU backend ours widens 16-bit scales and biases to float32, which mlx-lm does not; the row
"as stored" leaves that out, as Metal and CUDA do, and does the same work as mlx-lm.

Right before each load as much memory is taken and given back, in small pages and in large ones: a
virtual machine may have returned what was free to its host, and whoever takes it first waits for it
(up to 4 times the load's own time). The ratios are those of the loads of one round; the record
has their median and quartiles.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import record
from qwen3_mlx.fit import machine

# Python's own memory for both: the network is made, weights are in place, nothing is computed.
_LOAD = {
    "qwen3-mlx": """
from qwen3_mlx.checkpoint import load_network
import mlx.core as mx
def load(path):
    return load_network(path)[0]
""",
    "as stored": """
import qwen3_mlx.device.backend as backend
from qwen3_mlx.checkpoint import load_network
import mlx.core as mx
backend.compute_dtype = lambda stored: (stored, "as stored")
def load(path):
    return load_network(path)[0]
""",
    "mlx-lm": """
from pathlib import Path
from mlx_lm.utils import load_model
import mlx.core as mx
def load(path):
    return load_model(Path(path))[0]
""",
}
_TOUCH = """
import mmap, sys
def take(advice, page):
    pages = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(advice)
    for start in range(0, len(pages), page):
        pages[start] = 1
    return pages
if sys.platform == "linux":
    taken = take(mmap.MADV_NOHUGEPAGE, mmap.PAGESIZE), take(mmap.MADV_HUGEPAGE, 2 << 20)
"""
_MEASURE = """
import json, subprocess, sys, time
from mlx.utils import tree_flatten

def resident(kind):
    for line in open("/proc/self/status") if sys.platform == "linux" else []:
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    return 0

subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[3]], check=True)
before = resident("VmRSS")
mx.reset_peak_memory()
began = time.perf_counter()
network = load(sys.argv[1])
arrays = [array for _, array in tree_flatten(network.parameters())]
mx.eval(arrays)
seconds = time.perf_counter() - began
first = sum(a.nbytes for n, a in tree_flatten(network.parameters()) if ".layers.0." in n)
print(json.dumps({"seconds": seconds, "peak": mx.get_peak_memory(), "layer": first,
    "resident": resident("VmHWM") - before, "final": sum(a.nbytes for a in arrays)}))
"""


def checkpoint(folder: Path, shape: str, layers: int | None) -> int:
    """Write random packed weights, as mlx-lm writes them; returns the bytes."""
    import qwen3_mlx.device.backend  # noqa: F401 (first: it loads a BLAS before MLX)

    import mlx.core as mx
    from mlx.utils import tree_flatten

    from qwen3_mlx.bench import random_network
    from qwen3_mlx.config import Qwen3Config

    config = random_network.config_values(shape, "4bit", layers)
    (folder / "config.json").write_text(json.dumps(config))
    network = random_network.network(Qwen3Config.from_dict(config))
    arrays: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    # as released: 16-bit scales, biases and norms, whatever this device computes in
    floats = (mx.float32, mx.float16)
    stored = {n: a.astype(mx.bfloat16) if a.dtype in floats else a for n, a in arrays.items()}
    file = folder / "model.safetensors"
    mx.save_safetensors(str(file), stored, {"format": "mlx"})
    return file.stat().st_size


def load(name: str, folder: Path) -> dict[str, Any]:
    """One load in a process of its own."""
    stored = (folder / "model.safetensors").stat().st_size
    touched = min(int(1.15 * stored), machine.quick_machine().available_bytes // 3)
    command = [sys.executable, "-c", _LOAD[name] + _MEASURE, str(folder), _TOUCH, str(touched)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Write the checkpoint, load it in turns, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--layers", type=int, help="so many layers instead of all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder for the record")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="loading-"))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _LOAD}

    def one(name: str) -> float:
        runs[name].append(load(name, folder))
        return float(runs[name][-1]["seconds"])

    try:
        make = "from pathlib import Path; from benchmarks.loading import checkpoint; checkpoint("
        make += f"Path({str(folder)!r}), {arguments.shape!r}, {arguments.layers!r})"
        subprocess.run([sys.executable, "-c", make], check=True)  # its memory is given back
        stored = (folder / "model.safetensors").stat().st_size
        rounds = {name: (lambda name=name: one(name)) for name in _LOAD}
        seconds = record.interleaved(rounds, arguments.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = {name: _row(name, runs[name][1:], seconds[name]) for name in _LOAD}
    others = [name for name in rows if name != "mlx-lm"]
    ratios = {name: _ratios(seconds[name], seconds["mlx-lm"]) for name in others}
    results = {"shape": arguments.shape, "layers": arguments.layers, "stored": stored}
    for name, row in ratios.items():
        quarters = ", ".join(f"{row[key]:.2f}" for key in ("lower_quartile", "upper_quartile"))
        print(f"time beside mlx-lm's: {name} {row['median']:.2f}, quartiles {quarters}")
    print(record.write("loading", results | {"rows": rows, "time_ratios": ratios}, arguments.out))


def _ratios(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Our time over mlx-lm's, a ratio for each round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) < 2:
        lower, median, upper = ratios * 3
    else:
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    row = {"lower_quartile": lower, "median": median, "upper_quartile": upper}
    return row | {"samples": ratios}


def _row(name: str, runs: list[dict[str, Any]], seconds: list[float]) -> dict[str, Any]:
    peak, resident = (max(run[key] for run in runs) for key in ("peak", "resident"))
    row = {key: runs[0][key] for key in ("final", "layer")}
    row |= {"peak": peak, "resident": resident, "seconds": record.summary(seconds)}
    row["over_final_in_layers"] = (peak - row["final"]) / row["layer"]
    print(
        f"{name:10} {row['seconds']['median']:6.2f} s   final {row['final'] / 1e9:.2f} GB,"
        f" peak {peak / 1e9:.2f} GB = final + {row['over_final_in_layers']:.2f} layers,"
        f" process +{resident / 1e9:.2f} GB"
    )
    return row


if __name__ == "__main__":
    main()
