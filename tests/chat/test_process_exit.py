"""A program whose threads have used a model ends as any other."""

from __future__ import annotations

import subprocess
import sys

THREADS = """
import threading
from qwen3_mlx import load
def use():
    model = load("demo")
    if {talks}:
        model.generate("hi", max_tokens=3)
threads = [threading.Thread(target=use) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_a_process_ends_cleanly_right_behind_its_threads() -> None:
    """Six times, as one alone aborted in two of three only."""
    for turn in range(6):
        program = THREADS.format(talks=turn % 2)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
