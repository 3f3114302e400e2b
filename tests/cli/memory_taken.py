"""The command line on a machine of so many bytes that it shares with one other process.

``python -m tests.cli.memory_taken SIZE TAKEN AFTER ARGUMENTS…`` runs ``qwen3-mlx ARGUMENTS…``. When
MLX holds `AFTER` bytes, the other process, which is real, takes `TAKEN` bytes, which are real. What
is free is `SIZE` less what the two have resident: what another program does to the machine that the
test runs on has no part in it, and the machine need not be filled.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qwen3_mlx import cli
from qwen3_mlx.fit import machine

OTHER = """
import sys
taken = b"\\1" * int(sys.stdin.readline())
print("taken", flush=True)
sys.stdin.read()
"""


def resident(process: int | str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    size, taken, after = map(int, sys.argv[1:4])
    sys.argv[1:4] = []
    command = [sys.executable, "-c", OTHER]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None and other.stdout is not None
    pipe, answer = other.stdin, other.stdout
    asked = False

    def meminfo(key: str) -> int:
        nonlocal asked
        import mlx.core as mx  # here, where the package has loaded its BLAS

        if key != "MemAvailable":
            return 0
        if mx.get_active_memory() > after and not asked:
            asked = True
            print(taken, file=pipe, flush=True)
            answer.readline()
        return max(size - resident("self") - resident(other.pid), 0)

    machine._meminfo = meminfo
    try:
        cli.main()
    finally:
        pipe.close()
        other.wait()
        answer.close()


if __name__ == "__main__":
    main()
