"""Converting a checkpoint of a published shape: peak memory and wall time, beside mlx-lm.

    uv run --group bench python -m benchmarks.convert --shapes 0.6b 30b-a3b:4 --rounds 5

Each sample is a process of its own, in an order shuffled anew each round; a warm-up round puts the
source into the page cache. The arms are ``qwen3-mlx convert --no-verify``, ``mlx_lm.convert``, and
``mlx-lm's parts``: the steps of ``mlx_lm.convert`` without the tokenizer that it loads. Time is
that of the function, imports done. Memory is the process's peak resident size, and CPU time its
own, both with the imports. ``shape:N`` means N layers of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend

import mlx.core as mx

from benchmarks.record import interleaved, summary, write
from qwen3_mlx.bench.random_network import config_values
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.quantize.pack import bytes_of

OURS = """
import sys, time
from pathlib import Path
from qwen3_mlx.config import recipes
from qwen3_mlx.quantize import job
source, out, recipe = Path(sys.argv[1]), Path(sys.argv[2]), recipes.find(sys.argv[3])
begin = time.perf_counter()
job.run(job.prepare(job.ConversionRequest(source, "bench", out, recipe, "", verify=False)))
print(time.perf_counter() - begin)
"""
THEIRS = """
import sys, time
from pathlib import Path
from mlx_lm import convert
begin = time.perf_counter()
convert(sys.argv[1], sys.argv[2], quantize=True, q_group_size=64, q_bits=int(sys.argv[3][0]))
print(time.perf_counter() - begin)
"""
PARTS = """
import sys, time
from pathlib import Path
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
source, out, bits = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3][0])
begin = time.perf_counter()
model, config = load_model(source, lazy=True)
model, config = quantize_model(model, config, 64, bits)
save_model(out, model, donate_model=True)
save_config(config, out / "config.json")
print(time.perf_counter() - begin)
"""
PEAK = """
import resource
usage = resource.getrusage(resource.RUSAGE_SELF)
try:  # on Linux ru_maxrss begins with that of the process which started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
except OSError:
    peak = usage.ru_maxrss
print(peak, usage.ru_utime + usage.ru_stime)
"""
PROGRAMS = {"qwen3-mlx": OURS, "mlx_lm.convert": THEIRS, "mlx-lm's parts": PARTS}
DEMO = Path(qwen3_mlx.__file__).parent / "demo"
ROWS = 4096


def tensors(values: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as on Hugging Face, experts one by one."""
    for path, shape in weight_shapes(Qwen3Config.from_dict(values)):
        block, stacked, projection = path.partition(".switch_mlp.")
        if not stacked:
            yield f"{path}.weight", shape
            continue
        for number in range(shape[0]):
            yield f"{block}.experts.{number}.{projection}.weight", shape[1:]


def make_source(directory: Path, values: dict[str, Any]) -> int:
    """Write a bfloat16 checkpoint of random weights; returns the bytes of its largest tensor."""
    directory.mkdir(parents=True)
    for file in DEMO.glob("tokenizer*.json"):  # mlx_lm.convert asks for one
        shutil.copy(file, directory)
    (directory / "config.json").write_text(json.dumps(values | {"torch_dtype": "bfloat16"}))
    header, offset, largest = {}, 0, 0
    for name, shape in tensors(values):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        span = [offset, offset + size]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": span}
        offset, largest = offset + size, max(largest, size)
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for number, (_, shape) in enumerate(tensors(values)):
            mx.random.seed(number)
            for start in range(0, shape[0], ROWS):
                rows = (min(ROWS, shape[0] - start), *shape[1:])
                block = (0.02 * mx.random.normal(rows)).astype(mx.bfloat16)
                mx.eval(block)
                stream.write(bytes_of(block))
    return largest


def sample(program: str, source: Path, out: Path, recipe: str, kept: dict[str, Any]) -> float:
    """One process; returns its seconds, and keeps its peak resident bytes and CPU seconds."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", program + PEAK, str(source), str(out), recipe]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak, cpu = done.stdout.split()[-3:]
    kept["peak_bytes"] = max(kept.get("peak_bytes", 0), int(peak))
    kept.setdefault("cpu_seconds", []).append(float(cpu))
    return float(seconds)


def measure(shape: str, recipe: str, rounds: int, work: Path) -> dict[str, Any]:
    """Take all samples of one shape."""
    name, _, layers = shape.partition(":")
    source = work / f"{name}-{layers or 'all'}"
    largest = make_source(source, config_values(name, layers=int(layers) if layers else None))
    kept: dict[str, dict[str, Any]] = {arm: {} for arm in PROGRAMS}
    runs = {
        arm: lambda a=arm, p=program: sample(p, source, work / a, recipe, kept[a])
        for arm, program in PROGRAMS.items()
    }
    seconds = interleaved(runs, rounds)
    size = (source / "model.safetensors").stat().st_size
    bound = 2 * largest + 400_000_000
    row: dict[str, Any] = {"source_bytes": size, "largest_tensor": largest, "bound": bound}
    for arm in PROGRAMS:
        cpu = summary(kept[arm]["cpu_seconds"][1:])
        peak = kept[arm]["peak_bytes"]
        row[arm] = {"seconds": summary(seconds[arm]), "cpu_seconds": cpu, "peak_bytes": peak}
    shutil.rmtree(work)
    return row | {"within_bound": row["qwen3-mlx"]["peak_bytes"] <= bound}


def _line(arm: dict[str, Any]) -> str:
    wall, cpu = arm["seconds"]["median"], arm["cpu_seconds"]["median"]
    return f"{wall:.2f} s, {cpu:.2f} s of CPU, {arm['peak_bytes'] / 1e6:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["0.6b", "30b-a3b:4"])
    parser.add_argument("--recipe", choices=["4bit", "8bit"], default="4bit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where to put some gigabytes for a while")
    args = parser.parse_args()
    results = {}
    for shape in args.shapes:
        work = Path(tempfile.mkdtemp(dir=args.work)) / "w"
        row = results[shape] = measure(shape, args.recipe, args.rounds, work)
        print(f"{shape}: largest tensor x 2 + 400 MB = {row['bound'] / 1e6:.0f} MB")
        for arm in PROGRAMS:
            print(f"  {arm:15} {_line(row[arm])}")
    print(write("convert", results))


if __name__ == "__main__":
    main()
