"""The bound on a prefill's peak against what MLX measures, for shapes x contexts x cache bits.

``python -m benchmarks.memory`` runs on whatever device MLX has here, each case in a process of its
own: on the CPU a few layers of each shape (four minutes), on a GPU the whole 8B and 30B-A3B at up
to 131,072 tokens (``--cases`` chooses others; ``--cases tiny`` tries the script). After every case
it writes ``results/memory.json``, ``memory-gpu.json`` or ``memory-tiny.json``. A table comes last.
It fails if a peak is above its bound, a bound more than 10 % above its peak, or a case failed.
``--seconds 500`` ends the case that is running then and begins no other.

What is compared is `mx.get_peak_memory`: weights, cache, scratch. The process's own peak (RSS,
Linux) is recorded beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SLACK = 0.10
"""A bound is at most so much above what is measured, and never under it."""
REPEATS, ENOUGH = 3, 4.0
"""A busy machine lets MLX work ahead less, so the most of some runs counts: at most so many, and
none begun after so many seconds."""


@dataclass(frozen=True)
class Case:
    """A shape with so many layers, and what it reads."""

    shape: str
    recipe: str
    layers: int | None
    context: int
    chunk: int
    kv_bits: int | None = None

    @property
    def name(self) -> str:
        """Such as ``8b-4bit-2-of-its-layers-4096-by-512-kv8``."""
        depth = f"-{self.layers}-layers" if self.layers else ""
        cache = f"-kv{self.kv_bits}" if self.kv_bits else ""
        return f"{self.shape}-{self.recipe}{depth}-{self.context}-by-{self.chunk}{cache}"


# Few layers, and packed weights for few tokens only: MLX's CPU backend multiplies them slowly.
ON_CPU = (
    Case("0.6b", "bf16", 3, 512, 512),
    Case("0.6b", "bf16", 2, 2048, 2048),
    Case("0.6b", "bf16", 2, 3000, 512, 8),
    Case("0.6b", "bf16", 1, 8192, 1024, 4),
    Case("0.6b", "bf16", 1, 16384, 1024),
    Case("0.6b", "bf16", 1, 6144, 2048),
    Case("0.6b", "4bit", 1, 512, 512, 4),
    Case("1.7b", "bf16", 2, 4096, 512),
    Case("4b", "bf16", 1, 2048, 1024, 8),
    Case("8b", "4bit", 1, 256, 128),
    Case("tiny", "4bit", 2, 4096, 1024),
    Case("tiny", "bf16", 4, 12288, 512, 8),
    Case("tiny", "bf16", 4, 16384, 2048, 4),
    Case("tiny-moe", "bf16", 4, 2048, 2048),
    Case("tiny-moe", "bf16", 4, 16384, 1024),
    Case("tiny-moe", "4bit", 4, 3000, 512, 4),
    Case("30b-a3b", "4bit", 1, 256, 256),
)
ON_GPU = tuple(
    Case(shape, "4bit", None, context, 2048, bits)
    for kept in ((None, 8), (4,))  # the most wanted first: a lent GPU's time may end
    for context in (32_768, 131_072)
    for shape in ("8b", "30b-a3b")
    for bits in kept
)
TINY = tuple(
    Case(shape, "4bit", None, 3000, 512, bits)
    for shape in ("tiny", "tiny-moe")
    for bits in (None, 8)
)
CASES = {"cpu": ON_CPU, "gpu": ON_GPU, "tiny": TINY}
NAMES = {"cpu": "memory", "gpu": "memory-gpu", "tiny": "memory-tiny"}


def measure(case: Case) -> dict[str, Any]:
    """Predict, run, compare; sizes in bytes."""
    import qwen3_mlx.device.backend  # noqa: F401 (first: it loads a BLAS before MLX)

    import mlx.core as mx

    from qwen3_mlx.bench import random_network
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.engine.prefill import prefill
    from qwen3_mlx.engine.prompt_cache import PromptCache
    from qwen3_mlx.options import CacheFormat

    values = random_network.config_values(case.shape, case.recipe, case.layers)
    network = random_network.network(Qwen3Config.from_dict(values).for_context(case.context))
    mx.clear_cache()
    weights = mx.get_active_memory()
    tokens = [number % 997 for number in range(case.context)]
    peaks: list[int] = []
    began = time.perf_counter()
    while not peaks or (len(peaks) < REPEATS and time.perf_counter() - began < ENOUGH):
        cache = PromptCache(network, CacheFormat(case.kv_bits))
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(prefill(network, tokens, cache, case.chunk))
        peaks.append(mx.get_peak_memory())
        held = cache.nbytes
        del cache
    seconds = time.perf_counter() - began
    predicted, peak = predict(case), max(peaks)
    together = predicted["weights"] + predicted["kv"] + predicted["scratch"]
    return asdict(case) | {
        "peak": peak,
        "peaks": peaks,
        "predicted": together,
        "error": together / peak - 1,
        "measured_parts": {
            "weights": weights,
            "kv": held,
            "scratch": peak - weights - held,
        },
        "predicted_parts": predicted,
        "rss": _rss(),
        "seconds": seconds,
    }


def predict(case: Case) -> dict[str, int]:
    """Predict bytes with `qwen3_mlx.fit.inequality`, from the config alone."""
    from qwen3_mlx.bench import random_network
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.config.quantization import QuantSpec
    from qwen3_mlx.fit import inequality, machine

    config = Qwen3Config.from_dict(
        random_network.config_values(case.shape, case.recipe, case.layers)
    )
    packing = random_network.RECIPES[case.recipe]

    def spec(path: str) -> QuantSpec | None:
        if packing is None:
            return None
        return QuantSpec(8, 64) if path.endswith("mlp.gate") else QuantSpec(*packing)

    weights = inequality.weights_packed(config, spec)
    place = machine.this_machine()
    found = inequality.fit(config, weights, place, case.context, case.kv_bits, case.chunk)
    return {"weights": found.weight_bytes, "kv": found.kv_bytes, "scratch": found.scratch_bytes}


def _rss() -> int | None:
    """The process's peak memory in bytes; None where the system doesn't say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def apart(case: Case, seconds: float) -> dict[str, Any]:
    """`measure` in a process of its own, for at most so many seconds; a failure is a result too."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps(asdict(case))]
    try:
        run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return asdict(case) | {"failed": f"cut after {seconds:.0f} s"}
    except subprocess.CalledProcessError as fault:
        said = (fault.stderr.splitlines() or [""])[-1]
        return asdict(case) | {"failed": f"exit {fault.returncode}: {said}"}
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help="a case as JSON; prints the result as JSON")
    parser.add_argument("--cases", choices=CASES, help="instead of the device's own")
    parser.add_argument("--only", default="", help="names that contain this, recorded apart")
    parser.add_argument("--seconds", type=float, default=3600, help="for everything")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(Case(**json.loads(arguments.one)))))
        return
    import qwen3_mlx.device.backend as backend

    kind = arguments.cases or ("cpu" if backend.device() == "cpu" else "gpu")
    cases = [case for case in CASES[kind] if arguments.only in case.name]
    name = "-".join(filter(None, (NAMES[kind], arguments.only)))
    rows = run(cases, arguments.seconds, name)
    _table(rows)
    good = [row for row in rows.values() if "failed" not in row]
    errors = [row["error"] for row in good] or [math.inf]
    print(
        f"bound / peak - 1: {min(errors):+.1%} to {max(errors):+.1%} in {len(good)} cases measured,"
        f" {len(cases)} wanted; allowed 0 to {SLACK:.0%}"
    )
    sys.exit(min(errors) < 0 or max(errors) > SLACK or len(good) < len(rows))


def run(cases: list[Case], seconds: float, name: str) -> dict[str, dict[str, Any]]:
    """Measure `cases` one by one; the record `name` is written anew after each."""
    from benchmarks import record

    began = time.perf_counter()
    rows: dict[str, dict[str, Any]] = {}
    for case in cases:
        left = seconds - (time.perf_counter() - began)
        if left < 1:
            print(f"no time left for {case.name}", flush=True)
            continue
        row = rows[case.name] = apart(case, left)
        took = f"{row['error']:+.1%}" if "error" in row else f"FAILED: {row['failed']}"
        print(f"{time.perf_counter() - began:6.1f} s  {case.name}: {took}", flush=True)
        record.write(name, list(rows.values()))
    return rows


def _table(rows: dict[str, dict[str, Any]]) -> None:
    """MB, predicted/measured: together and in parts."""
    width = max(map(len, rows), default=0)
    parts = ("weights", "kv", "scratch")
    print(f"{'MB, predicted/measured':{width}}", *(f"{n:>17}" for n in ("peak", *parts)), "  error")
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:{width}} {row['failed']}")
            continue
        pairs = [(row["predicted"], row["peak"])]
        pairs += [(row["predicted_parts"][part], row["measured_parts"][part]) for part in parts]
        cells = (f"{said / 1e6:8,.0f}/{found / 1e6:8,.0f}" for said, found in pairs)
        print(f"{name:{width}}", *cells, f"{row['error']:+7.1%}")


if __name__ == "__main__":
    main()
