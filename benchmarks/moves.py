"""How far one message travels through the package: the files that run, and how often they change.

    python -m benchmarks.moves

A *move* is a call (or a generator that goes on) into another file of the package than the call
before it; returns aren't counted. Two stretches of one turn with the demo on the plain path are
counted: from `ChatSession.send` to the first forward pass, and one token (from one forward pass to
the next). What background threads do isn't counted.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

os.environ["QWEN3_MLX_KERNELS"] = "off"

import qwen3_mlx

GUARDS = ("template_costs", "template_limits", "template_tree")
PACKAGE = f"{Path(qwen3_mlx.__file__).parent}{os.sep}"
NETWORK = "nn/transformer.py"
RENDERING = {f"text/{name}.py" for name in ("sandbox", *GUARDS)}
"""Files that a chat template's own operations call; how often depends on the template."""
TOKEN = 20
"""The token that is counted: pipelining and caches have settled by then."""


class Trace:
    """The package's files in the order in which they run, for `sys.setprofile`."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.passes: list[int] = []  # where in `files` a forward pass begins

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; a generator that goes on is one too."""
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(PACKAGE):
            return
        name = path.removeprefix(PACKAGE)
        inside = frame.f_back and frame.f_back.f_code.co_filename == path
        if name == NETWORK and frame.f_code.co_name == "__call__" and not inside:
            self.passes.append(len(self.files))
        self.files.append(name)

    def stretch(self, begin: int, end: int) -> dict[str, Any]:
        """Files and moves between two places, and what runs, repetitions left out."""
        part = [name for name, _ in itertools.groupby(self.files[begin:end])]
        rendering = sum(name in RENDERING for name in part)
        return {
            "files": len(set(part)),
            "moves": len(part) - 1,
            "rendering": rendering,
            "order": part,
        }


def turn() -> Trace:
    """One message to the demo."""
    session = qwen3_mlx.load("demo").session(thinking_budget=64, temperature=0.0)
    trace = Trace()
    sys.setprofile(trace)
    try:
        for _ in session.send("What is 17 * 23?"):
            pass
    finally:
        sys.setprofile(None)
    return trace


def main() -> None:
    """Count and print."""
    trace = turn()
    stretches = {
        "from session.send to the first forward pass": (0, trace.passes[0] + 1),
        "one token": (trace.passes[TOKEN], trace.passes[TOKEN + 1]),
    }
    for name, (begin, end) in stretches.items():
        found = trace.stretch(begin, end)
        print(f"{name}: {found['files']} files, {found['moves']} moves", end="")
        print(f", {found['rendering']} of them inside the chat template" if begin == 0 else "")
        if "--order" in sys.argv:
            print("  " + " → ".join(found["order"]))


if __name__ == "__main__":
    main()
