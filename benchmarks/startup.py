"""Start-up time: ``--help`` beside mlx_lm.chat's, and the demo's first token.

    uv run --group bench python -m benchmarks.startup

Each sample is a fresh process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.record import interleaved, summary, write

BIN = Path(sys.executable).parent


def _seconds(*command: str) -> float:
    """Wall time of a process, start to end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def _first_token() -> float:
    """Seconds from process start to the first byte of the demo's reply."""
    command = [str(BIN / "qwen3-mlx"), "generate", "demo", "What is 17 * 23?"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
    return seconds


def main(rounds: int = 7) -> None:
    runs = {
        "qwen3-mlx --help": lambda: _seconds(str(BIN / "qwen3-mlx"), "--help"),
        "mlx_lm.chat --help": lambda: _seconds(str(BIN / "mlx_lm.chat"), "--help"),
        "demo, first token": _first_token,
    }
    results = {name: summary(samples) for name, samples in interleaved(runs, rounds).items()}
    for name, row in results.items():
        print(f"{name:22} {row['median']:.3f} s{'   (noisy)' if row['noisy'] else ''}")
    ratio = results["qwen3-mlx --help"]["median"] / results["mlx_lm.chat --help"]["median"]
    print(f"{'help ratio':22} {ratio:.3f}")
    print(write("startup", {**results, "help_ratio": ratio}))


if __name__ == "__main__":
    main()
