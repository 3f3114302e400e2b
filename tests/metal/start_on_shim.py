"""A start with a model on the processor's shim, in a process of its own: its trial, then its words.

Prints the verdict's file, why it could not be kept, and the tokens, as JSON.
"""

from __future__ import annotations

import json
import sys

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.metal import attend, launch, prove
from qwen3_mlx.nn import fused_step, trial
from qwen3_mlx.nn.signature import verdict_file
from tests.metal.harness import on_cpu
from tests.metal.judged import net, proven, said

if __name__ == "__main__":
    launch.executor, launch.trusted = on_cpu, False
    backend.device = lambda: "metal"
    prove.CHILD = [sys.executable, "-m", "tests.metal.prove_on_shim"]
    trial.readings = lambda *_: proven("fused", "fused").readings
    attend.TAIL, fused_step.LONG = 3, 7
    mx.disable_compile()
    network = net()
    _, unkept = trial.run(network)
    file = verdict_file(network)
    assert file is not None
    print(json.dumps({"file": file.name, "unkept": unkept, "said": said(network)}))
