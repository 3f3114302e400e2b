"""A default conversion from each packing, its comparison included: peak memory and time.

    python -m benchmarks.packings --shape 0.6b
    python -m benchmarks.packings --shape 0.6b --only bf16 gptq --blas off

Sources have random codes and plain scales, in the shape of a release. Each is converted to 4 bits
and compared in a process of its own; the peak is that process's, imports included, held to twice
the largest tensor (of the network in bfloat16) and 400 MB. Seconds are of all cores together, which
other programs disturb little, and the last column is the comparison's over the conversion's.
`--blas off` takes the BLAS that MLX's wheel brings.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convert import tensors
from benchmarks.packed_sources import GGUF, PACKINGS, make
from benchmarks.record import write
from qwen3_mlx.bench.random_network import SHAPES, config_values

PROGRAM = """
import sys, time
from pathlib import Path
from qwen3_mlx.config import recipes
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import job
def seconds(verify):
    begin = time.process_time()
    source = resolve.resolve(sys.argv[1])
    asked = job.ConversionRequest(source, "bench", Path(sys.argv[2]), recipes.find("4bit"), "",
                                  allow_lossy=True, verify=verify)
    record = job.run(job.prepare(asked))
    return time.process_time() - begin, record
converted, _ = seconds(False)
compared, record = seconds(True)
try:  # on Linux ru_maxrss begins with that of the process which started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert record["measured"]["loaded"], "the loader was not tried"
print(peak, converted, compared, record["measured"]["tokens"])
"""


def measure(packing: str, values: dict[str, Any], work: Path, blas: str) -> dict[str, Any]:
    """One conversion: peak, seconds of converting and comparing, tokens compared."""
    source = make(work / "source", values, packing)
    command = [sys.executable, "-c", PROGRAM, str(source), str(work / "out")]
    environment = os.environ | {"QWEN3_MLX_HOME": str(work / "home")}
    environment |= {"QWEN3_MLX_BLAS": blas} if blas else {}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    peak, converted, compared, tokens = done.stdout.split()[-4:]
    shutil.rmtree(work / "source")
    shutil.rmtree(work / "out")
    return {
        "peak_bytes": int(peak),
        "cpu_seconds_converting": float(converted),
        "cpu_seconds_comparing": float(compared),
        "tokens": int(tokens),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument("--layers", type=int, help="the first layers alone")
    parser.add_argument("--only", nargs="+", choices=[*PACKINGS, *GGUF], default=None)
    parser.add_argument("--blas", default="", help="QWEN3_MLX_BLAS of the conversions")
    parser.add_argument("--work", type=Path, help="where to put some gigabytes for a while")
    args = parser.parse_args()
    values = config_values(args.shape, layers=args.layers)
    largest = max(2 * int(np.prod(shape)) for _, shape in tensors(values))
    bound = 2 * largest + 400_000_000
    rows: dict[str, Any] = {}
    print(f"bound: {bound / 1e6:.0f} MB\n{'packing':18}{'peak':>9}{'seconds':>16}{'ratio':>8}")
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for packing in args.only or [*PACKINGS, *GGUF]:
            row = rows[packing] = measure(packing, values, Path(work), args.blas)
            seconds = row["cpu_seconds_converting"], row["cpu_seconds_comparing"]
            ratio = seconds[1] / seconds[0]
            over = "" if row["peak_bytes"] <= bound else "  above the bound"
            line = f"{row['peak_bytes'] / 1e6:6.0f} MB{seconds[0]:8.1f}{seconds[1]:8.1f}"
            print(f"{packing:18}{line}{ratio:8.1f}{over}", flush=True)
    results = {"shape": args.shape, "bound": bound, "blas": args.blas or "the default"}
    print(write(f"packings{'-blas-off' * (args.blas == 'off')}", results | {"packings": rows}))


if __name__ == "__main__":
    main()
