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


TOGETHER = """
import os, threading, time
from qwen3_mlx import load
model, met = load("demo"), threading.Barrier({parties})
endless = dict.fromkeys(model.tokenizer.eos_ids, -100.0)
def use():
    turn = model.stream("hi", max_tokens={tokens}, logit_bias=endless)
    next(turn)
    met.wait()
    for number, _ in enumerate(turn):
        if number == 5 and {parties} == 3:
            met.wait()
    time.sleep(0.02)
    os.write(1, b"ended\\n")
threads = [threading.Thread(target=use, daemon={parties} == 3) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(2 if {parties} == 3 else 0): met.wait()
"""


def test_a_process_ends_cleanly_whose_threads_have_turns_together() -> None:
    """Behind them, and in their midst: their turns end, and their last words are waited for."""
    for parties, tokens in ((2, 12), (3, 4000)):
        program = TOGETHER.format(parties=parties, tokens=tokens)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b""), parties
        assert done.stdout == b"ended\n" * 2
