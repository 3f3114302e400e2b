"""Two cards against one and against mlx-lm's two, and where the time of a sum goes, in one command.

    python -m benchmarks.machines --out DIR --seconds 580 [--phases exact sums nccl 8b …]
    python -m benchmarks.machines --out DIR --tiny      # tries it on any machine: two processes

One process a card, through NCCL on CUDA, through the ring elsewhere. Each phase is a pair of
processes with a limit; records are written after every case, so a cut loses one case. The sums are
read with NCCL's and MLX's settings varied; the best is then taken for the phases named `-best`.
Where mlx-lm's products compile at first use, a process does that beside the first phases.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machines import RESULTS, START, keep, read, say
from qwen3_mlx.config.share import Share

EXACT, FAST = {"MLX_ENABLE_TF32": "0"}, {"MLX_ENABLE_TF32": "1"}
VARIANTS = {
    "sums": {},
    "sums-no-graphs": {"MLX_USE_CUDA_GRAPHS": "0"},
    "sums-no-mixing": {"NCCL_GRAPH_MIXING_SUPPORT": "0"},
    "sums-no-register": {"NCCL_GRAPH_REGISTER": "0"},
    "sums-one-cta": {"NCCL_MAX_CTAS": "1", "NCCL_CGA_CLUSTER_SIZE": "0"},
    "sums-ops-1000": {"MLX_MAX_OPS_PER_BUFFER": "1000"},
    "sums-all": {
        "NCCL_GRAPH_MIXING_SUPPORT": "0",
        "NCCL_GRAPH_REGISTER": "0",
        "NCCL_MAX_CTAS": "1",
        "NCCL_CGA_CLUSTER_SIZE": "0",
    },
}
"""Settings of MLX and NCCL under which the sums are read."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One pair of processes: what it runs, its limit in seconds, and its settings."""

    name: str
    limit: float
    settings: dict[str, str] = field(default_factory=dict)
    best: bool = False


PHASES = [
    Phase("exact", 80, EXACT),
    *(Phase(name, 40, FAST | settings) for name, settings in VARIANTS.items()),
    Phase("8b", 150, FAST),
    Phase("30b-a3b", 170, FAST),
    Phase("235b-a22b-best", 150, FAST, True),
    Phase("8b-best", 90, FAST, True),
    Phase("30b-a3b-best", 90, FAST, True),
    Phase("nccl", 40),
    Phase("235b-a22b", 170, FAST),
    Phase("8b-no-graphs", 50, FAST | VARIANTS["sums-no-graphs"]),
    Phase("30b-a3b-no-graphs", 50, FAST | VARIANTS["sums-no-graphs"]),
    Phase("8b-prompts", 50, FAST),
    Phase("30b-a3b-prompts", 50, FAST),
]
"""The most wanted first."""


def on_cuda() -> bool:
    """Whether MLX runs on CUDA here, asked in a process of its own: this one opens no card."""
    code = "import mlx.core as mx; print(mx.cuda.is_available())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return run.stdout.strip() == "True"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def worlds(size: int, cuda: bool, folder: Path) -> list[dict[str, str]]:
    """The variables of each process of a group."""
    shared = {"MACHINES_SIZE": str(size), "PYTHONUNBUFFERED": "1", "OUT": str(folder)}
    if cuda:
        shared |= {"NCCL_HOST_IP": "127.0.0.1", "NCCL_PORT": str(free_port())}
        shared |= {"MLX_WORLD_SIZE": str(size), "NCCL_NVLS_ENABLE": "0"}
        cards = [{"CUDA_VISIBLE_DEVICES": str(rank)} for rank in range(size)]
    else:
        hosts = folder / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(size)]))
        shared["MLX_HOSTFILE"] = str(hosts)
        cards = [{} for _ in range(size)]
    return [shared | card | {"MLX_RANK": str(rank)} for rank, card in enumerate(cards)]


def run(phase: Phase, left: float, args: argparse.Namespace, settings: dict[str, str]) -> str:
    """Run a phase; returns in words how it ended. No process is left behind."""
    limit = min(phase.limit, left)
    say(f"== {phase.name}, at most {limit:.0f} s {settings}")
    command = [sys.executable, "-m", "benchmarks.machines", "--out", str(args.out)]
    command += ["--case", phase.name, *(["--tiny"] if args.tiny else [])]
    begin = time.monotonic()
    processes = [
        subprocess.Popen(command, env=os.environ | world | settings)
        for world in worlds(args.size, args.cuda, args.out)
    ]
    try:
        while time.monotonic() - begin < limit:
            codes = [process.poll() for process in processes]
            if all(code == 0 for code in codes):
                return f"done in {time.monotonic() - begin:.0f} s"
            if any(codes):
                return f"exit {codes}"
            time.sleep(0.1)
        return f"cut after {limit:.0f} s; what it had measured is kept"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_case(name: str, tiny: bool, folder: Path) -> None:
    """Run one phase's cases, in this process of the group."""
    from benchmarks.machines import exact, latency, models, nccl

    if tiny:
        models.shrink()
    shape = name.removesuffix("-best").removesuffix("-no-graphs").removesuffix("-prompts")
    small = "tiny-moe" if "-a" in shape else "tiny"
    chosen = small if tiny else shape
    if name == "exact":
        exact.run(["tiny", "tiny-moe"] if tiny else ["8b", "30b-a3b"], tiny)
    elif name.startswith("sums"):
        latency.run(name, tiny)
    elif name == "nccl":
        nccl.run(folder)
    elif name == "compile":
        compile_theirs(["tiny-moe"] if tiny else ["30b-a3b", "8b"])
    elif name.endswith("-prompts"):
        models.prompt_ways(chosen, name, 64 if tiny else 8192)
    else:
        models.run(chosen, name, name != shape, name.endswith("-no-graphs"))


def compile_theirs(shapes: list[str]) -> None:
    """Have MLX compile what mlx-lm's half networks need, on two layers; it keeps that on disk."""
    from benchmarks.machines import models

    models.trust_the_kernels()
    for shape in shapes:
        held = models.Held(shape, Share(0, 1), 2)
        for length in models.LENGTHS.prompts:
            models.prompt(held, length, "mlx-lm")
        models.decode_theirs(held)
        say(f"compiled {shape}")


def best() -> dict[str, str]:
    """The settings under which a chained sum was fastest, where that is a tenth or more."""
    rows = {name: read(name, Path(os.environ["OUT"])).get("sum") for name in VARIANTS}
    times = {name: row["total"] for name, row in rows.items() if row}
    fastest = min(times, key=lambda name: times[name], default="sums")
    if not times or times[fastest] > 0.9 * times.get("sums", 1e9):
        return {}
    return VARIANTS[fastest]


def main() -> None:
    """Run the phases as far as the time goes, and say what each gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    names = [phase.name for phase in PHASES]
    usual = [name for name in names if not name.endswith(("-no-graphs", "-prompts"))]
    add("--out", type=Path, required=True, help="folder for the records")
    add("--seconds", type=float, default=580, help="for everything")
    add("--size", type=int, default=2, help="processes, and cards")
    add("--phases", nargs="+", choices=names, default=[*usual, "sums-no-graphs"])
    add("--tiny", action="store_true", help="tiny networks, to try the script")
    add("--case", help="run one phase in this process of a group")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["OUT"] = str(args.out)
    if args.case:
        run_case(args.case, args.tiny, args.out)
        return
    args.cuda = on_cuda()
    drive(args)


def drive(args: argparse.Namespace) -> None:
    """Phase after phase, with mlx-lm's products compiled beside the first."""
    command = [sys.executable, "-m", "benchmarks.machines", "--out", str(args.out)]
    environment = os.environ | FAST | {"OUT": str(args.out / "compile")}
    beside = [*command, "--case", "compile", *(["--tiny"] if args.tiny else [])]
    ours = ("exact", "nccl", "sums", "-no-graphs", "-prompts")
    theirs = any(
        not name.startswith(ours[:3]) and not name.endswith(ours[3:]) for name in args.phases
    )
    compiling = subprocess.Popen(beside, env=environment) if args.cuda and theirs else None
    try:
        for phase in PHASES:
            if phase.name not in args.phases or (phase.name == "nccl" and not args.cuda):
                continue
            if compiling and phase.name not in ("exact", "nccl") and "sums" not in phase.name:
                with suppress(subprocess.TimeoutExpired):
                    compiling.wait(timeout=100)
            chosen = best() if phase.best else {}
            if phase.best and not chosen and phase.name.removesuffix("-best") in args.phases:
                RESULTS[phase.name] = {"ended": "left out: no settings are better"}
                continue
            settings = phase.settings | chosen
            left = args.seconds - (time.perf_counter() - START)
            ended = run(phase, left, args, settings) if left > 15 else "no time was left"
            RESULTS[phase.name] = {"settings": settings, "ended": ended}
            keep("phases")
            say(f"{phase.name}: {ended}")
    finally:
        if compiling:
            compiling.kill()


if __name__ == "__main__":
    main()
