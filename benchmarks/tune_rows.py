"""Times `skinny` with every cut, within the products of a layer, on this machine's GPU.

    python -m benchmarks.tune_rows [--shape 8b] [--rows 2 16] [--layers 12] [--workers 8]

A layer's products follow one another as in a step, attention left out, and one product at a time
gets another cut; the gain is what the whole chain gains. Each text compiles for seconds, so workers
compile at the same time, and then measure one after the other, each beside today's cuts. On a
machine without a GPU the kernels run as Metal text on the CPU, to try the script.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from benchmarks.record import write
from qwen3_mlx.bench.random_network import SHAPES, config_values, network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal import layer, tuning
from qwen3_mlx.nn.signature import layer_of

CUTS = [
    tuning.RowsCut(tiles, simds, ahead)
    for tiles in (1, 2, 4)
    for simds in (4, 8, 16)
    for ahead in (1, 2, 4)
    if tiles * ahead <= 8 and tiles * simds <= 32
]
ROUNDS, STEPS = (7, 10) if backend.device() != "cpu" else (1, 1)

WAIT_SECONDS = 120.0
"""How long a worker waits for those that still compile."""

TODAY = tuning.skinny
"""The cut that is varied."""

Key = tuple[int, int, bool]
Forward = Callable[[mx.array], mx.array]


def products(shape: str) -> dict[str, Key]:
    """The rows and columns of a layer's matrices by launch, and whether two are read at once."""
    size = SHAPES[shape]
    values = size.config()
    hidden, heads = values["hidden_size"], values["num_attention_heads"] * values["head_dim"]
    keys = 2 * values["num_key_value_heads"] * values["head_dim"]
    wide = values["moe_intermediate_size"] if size.num_experts else values["intermediate_size"]
    found = {"qkv": (heads + keys, hidden, False), "out": (hidden, heads, False)}
    return found | {"gate_up": (wide, hidden, True), "down": (hidden, wide, False)}


def chain(layers: list[layer.Layer], cuts: dict[Key, tuning.RowsCut]) -> Forward:
    """The layers' products with these cuts, compiled; ``[R, 1, C]`` to the same."""

    def first_heads(qkv: mx.array, heads: tuple[int, int], *_: Any) -> tuple[mx.array, mx.array]:
        width = heads[0] * qkv.shape[-1] // (heads[0] + 2 * heads[1])
        return mx.contiguous(qkv[..., :width]), qkv

    without_attention = layer.Operations(
        layer.ROWS.matvec, first_heads, layer.ROWS.gate_up, layer.ROWS.hidden, layer.ROWS.down
    )

    def forward(x: mx.array) -> mx.array:
        for one in layers:
            x, _ = one.step(x, x, None, without_attention)  # type: ignore[arg-type]
        return x

    def cut(rows: int, columns: int, tokens: int, gated: bool, experts: bool) -> tuning.RowsCut:
        today = TODAY(rows, columns, tokens, gated, experts)
        return cuts.get((rows, columns, gated), today)

    def traced(x: mx.array) -> mx.array:
        tuning.skinny = cut
        try:
            return forward(x)
        finally:
            tuning.skinny = TODAY

    return traced if backend.device() == "cpu" else mx.compile(traced)


def seconds(forward: Forward, x: mx.array) -> float:
    """Seconds of one pass, the mean of a few that follow one another."""
    mx.synchronize()
    began = time.perf_counter()
    for _ in range(STEPS):
        x = forward(x)
        mx.async_eval(x)
    mx.eval(x)
    return (time.perf_counter() - began) / STEPS


def compiles(forward: Forward, x: mx.array) -> bool:
    """Run it once; False if the GPU refuses it, for its registers as a rule."""
    try:
        mx.eval(forward(x))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return False
    return True


def work(folder: Path, index: int) -> None:
    """Compile this worker's share of the cases, wait for the others, then measure in turn."""
    given = json.loads((folder / "given").read_text("utf-8"))
    config = Qwen3Config.from_dict(config_values(given["shape"], "4bit", given["layers"]))
    net = network(config)
    net.set_dtype(mx.bfloat16)
    layers = [layer_of(block) for block in net.layers]
    if backend.device() == "cpu":
        from benchmarks.gpu.cases import on_the_shim

        on_the_shim()
    keys, found = products(given["shape"]), []
    for rows, name, *cut in given["cases"][index :: given["workers"]]:
        x = mx.random.normal((rows, 1, config.hidden_size)).astype(mx.bfloat16)
        found.append((rows, name, cut, x, chain(layers, {keys[name]: tuning.RowsCut(*cut)})))
    today = {rows: chain(layers, {}) for rows, *_ in found}
    for rows, *_, x, _ in found:
        mx.eval(today[rows](x))
    found = [case for case in found if compiles(case[-1], case[-2])]
    (folder / f"ready-{index}").touch()
    began = time.monotonic()
    while len(list(folder.glob("ready-*"))) < given["workers"]:
        if time.monotonic() - began > WAIT_SECONDS:  # a worker has failed
            break
        time.sleep(0.05)
    with (folder / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for rows, name, cut, x, forward in found:
            seconds(forward, x)
            pairs = [(seconds(today[rows], x), seconds(forward, x)) for _ in range(ROUNDS)]
            before, after = (1e6 * statistics.median(side) for side in zip(*pairs, strict=True))
            row = [rows, name, *cut, before / len(layers), after / len(layers)]
            print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--only", nargs="+", help="of qkv, out, gate_up and down")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker is not None:
        work(asked.folder, asked.worker)
        return
    cases = [
        (rows, name, *cut)
        for rows in asked.rows
        for name in products(asked.shape)
        for cut in CUTS
        if name in (asked.only or name)
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), asked, cases)
    print(write(f"tune-rows-{asked.shape}", sorted(rows)))


def measured(folder: Path, asked: argparse.Namespace, cases: list[Any]) -> list[list[Any]]:
    """Rows, product, cut, microseconds a layer with today's cuts and with this one."""
    given = {"shape": asked.shape, "layers": asked.layers, "workers": asked.workers}
    (folder / "given").write_text(json.dumps(given | {"cases": cases}), "utf-8")
    command = [sys.executable, "-m", "benchmarks.tune_rows", "--folder", str(folder), "--worker"]
    workers = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True, env=os.environ)
        for n in range(asked.workers)
    ]
    found = []
    for worker in workers:
        for line in worker.communicate()[0].splitlines():
            rows, name, tiles, simds, ahead, before, after = row = json.loads(line)
            found.append(row)
            print(
                f"{rows:3} rows {name:8} {tiles} tiles {simds:2} simdgroups {ahead} ahead"
                f" {before:7.1f} -> {after:7.1f} us a layer, {before / after:.3f} x",
                flush=True,
            )
    return found


if __name__ == "__main__":
    main()
