"""Processes on this machine that form a ring, as `mlx.launch` would start them."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@cache
def patience() -> dict[str, str]:
    """What a process's environment needs so that it waits for its neighbours without a core.

    Two processes took 78 seconds of two busy cores, 62 of them in the kernel; so they take 10.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        return {}
    source = Path(__file__).with_name("patient_recv.c")
    folder = tempfile.mkdtemp(prefix="qwen3-mlx-ring-")
    atexit.register(shutil.rmtree, folder)
    library = Path(folder) / "patient_recv.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    # OpenBLAS's threads look for work for a while, too, unless it is 2^4 cycles only
    return {"LD_PRELOAD": str(library), "OPENBLAS_THREAD_TIMEOUT": "4"}


def run(module: str, size: int, folder: Path, timeout: float = 600) -> str:
    """Run ``python -m module SIZE`` as each rank; returns what rank 0 printed."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]))
    # as users have it: with one thread OpenBLAS adds in another order (NMSE 1.01e-11, not 0.6e-11)
    environment = {name: v for name, v in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(size)],
            env=environment | patience() | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [rank.communicate(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, (_, errors) in zip(ranks, said, strict=True):
        assert rank.returncode == 0, errors
    return said[0][0]
