"""The predicted peak of a prefill against what MLX measures, for shapes x contexts x cache bits.

``python -m benchmarks.memory`` runs on whatever device MLX has here, each case in a process of its
own: on the CPU a few layers of each shape (four minutes), on a GPU the whole 8B and 30B-A3B at up
to 131,072 tokens (``--cases`` chooses others). It writes ``results/memory.json``, or
``memory-gpu.json``, and fails if a prediction is more than 5 % off.

What is compared is `mx.get_peak_memory`: weights, cache, scratch. The process's own peak (RSS,
Linux) is recorded beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BOUND = 0.05
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
    for shape in ("8b", "30b-a3b")
    for context in (32_768, 131_072)
    for bits in (None, 8, 4)
)


def measure(case: Case) -> dict[str, Any]:
    """Predict, run, compare; sizes in bytes."""
    import qwen3_mlx.backend  # noqa: F401 (first: it loads a BLAS before MLX)

    import mlx.core as mx

    from qwen3_mlx import shapes
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.engine.prefill import prefill
    from qwen3_mlx.engine.prompt_cache import PromptCache
    from qwen3_mlx.options import KeyValues

    values = shapes.config_values(case.shape, case.recipe, case.layers)
    network = shapes.network(Qwen3Config.from_dict(values).for_context(case.context))
    mx.clear_cache()
    weights = mx.get_active_memory()
    tokens = [number % 997 for number in range(case.context)]
    peaks: list[int] = []
    began = time.perf_counter()
    while not peaks or (len(peaks) < REPEATS and time.perf_counter() - began < ENOUGH):
        cache = PromptCache(network, KeyValues(case.kv_bits))
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
    """What `qwen3_mlx.memory` says, from the config alone."""
    from qwen3_mlx import machine, memory, shapes
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.config_parts import QuantSpec

    config = Qwen3Config.from_dict(shapes.config_values(case.shape, case.recipe, case.layers))
    packing = shapes.RECIPES[case.recipe]

    def spec(path: str) -> QuantSpec | None:
        if packing is None:
            return None
        return QuantSpec(8, 64) if path.endswith("mlp.gate") else QuantSpec(*packing)

    weights = memory.weights_packed(config, spec)
    place = machine.this_machine()
    found = memory.fit(config, weights, place, case.context, case.kv_bits, case.chunk)
    return {"weights": found.weight_bytes, "kv": found.kv_bytes, "scratch": found.scratch_bytes}


def _rss() -> int | None:
    """The process's peak, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def apart(case: Case) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps(asdict(case))]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Run the cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help="a case as JSON; prints the result as JSON")
    parser.add_argument("--cases", choices=("cpu", "gpu"), help="instead of the device's own")
    parser.add_argument("--only", default="", help="names that contain this")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(Case(**json.loads(arguments.one)))))
        return
    import qwen3_mlx.backend as backend

    on_gpu = (arguments.cases or backend.device()) not in ("cpu",)
    results = []
    for case in ON_GPU if on_gpu else ON_CPU:
        if arguments.only in case.name:
            results.append(row := apart(case))
            _show(case.name, row)
    worst = max(abs(row["error"]) for row in results)
    print(f"worst {worst:.1%} of {len(results)} cases; bound {BOUND:.0%}")
    if not arguments.only:
        from benchmarks import record

        print(record.write("memory-gpu" if on_gpu else "memory", results))
    sys.exit(worst > BOUND)


def _show(name: str, row: dict[str, Any]) -> None:
    parts = [
        f"{part} {row['predicted_parts'][part] / 1e6:,.0f}/{row['measured_parts'][part] / 1e6:,.0f}"
        for part in ("weights", "kv", "scratch")
    ]
    print(
        f"{name:38} {row['predicted'] / 1e6:8,.0f} MB predicted {row['peak'] / 1e6:8,.0f} measured"
        f" {row['error']:+6.1%}   {'  '.join(parts)}   {row['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
