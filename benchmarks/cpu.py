"""Prefill and decode on the CPU backend, beside mlx-lm's ``stream_generate``, same checkpoint.

    uv run --group bench python -m benchmarks.cpu

Each sample is a process of its own, which warms up once; mlx-lm runs as its users run it, without
the BLAS that this package loads. Both sides get the same ids, greedy, and stream text. Samples are
tokens per second as each side reports them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.record import interleaved, summary, write

PROMPT, GENERATED = 512, 128

# Neither side may end early: no end token is recognised.
OURS = """
import json, sys
from dataclasses import replace
from qwen3_mlx import GenerationOptions, load
from qwen3_mlx.chat.request import prepare
from qwen3_mlx.chat.turn import start
from qwen3_mlx.engine.markers import Markers
name, prompt, generated = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = load(name)
ids = [100 + i % 700 for i in range(prompt)]
options = GenerationOptions(temperature=0.0, thinking=False)
request = prepare(model.runtime, [{"role": "user", "content": "x"}], options)
endless = Markers(None, None, None, frozenset())
request = replace(request, prompt=ids, markers=endless, max_tokens=generated)
for _ in range(2):
    *_, done = start(model.runtime, request)
print(json.dumps([done.stats.prefill_tps, done.stats.decode_tps]))
"""

THEIRS = """
import json, sys
from mlx_lm import load, stream_generate
from mlx_lm.sample_utils import make_sampler
name, prompt, generated = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model, tokenizer = load(name)
tokenizer._eos_token_ids = {-1}
ids = [100 + i % 700 for i in range(prompt)]
sampler = make_sampler(temp=0)
for _ in range(2):
    *_, last = stream_generate(model, tokenizer, ids, max_tokens=generated, sampler=sampler)
assert last.generation_tokens == generated
print(json.dumps([last.prompt_tps, last.generation_tps]))
"""


def _sample(program: str, model: Path, kept: list[tuple[float, float]]) -> float:
    """One process; keeps (prefill, decode) rates and returns the decode rate."""
    command = [sys.executable, "-c", program, str(model), str(PROMPT), str(GENERATED)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    prefill, decode = json.loads(run.stdout.splitlines()[-1])
    kept.append((prefill, decode))
    return float(decode)


def main(rounds: int = 7) -> None:
    from qwen3_mlx.hub.resolve import resolve

    model = resolve("demo")
    kept: dict[str, list[tuple[float, float]]] = {"qwen3-mlx": [], "mlx-lm": []}
    interleaved(
        {
            "qwen3-mlx": lambda: _sample(OURS, model, kept["qwen3-mlx"]),
            "mlx-lm": lambda: _sample(THEIRS, model, kept["mlx-lm"]),
        },
        rounds,
        warm_up=0,
    )
    rows = {
        name: {
            "prefill": summary([prefill for prefill, _ in samples]),
            "decode": summary([decode for _, decode in samples]),
        }
        for name, samples in kept.items()
    }
    ratios = {
        kind: rows["qwen3-mlx"][kind]["median"] / rows["mlx-lm"][kind]["median"]
        for kind in ("prefill", "decode")
    }
    for name, row in rows.items():
        medians = "   ".join(f"{kind} {row[kind]['median']:8.1f} tok/s" for kind in row)
        print(f"{name:10} {medians}")
    print(f"ratio      prefill {ratios['prefill']:.2f} ×   decode {ratios['decode']:.2f} ×")
    print(write("cpu", {"prompt": PROMPT, "generated": GENERATED, "rows": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
