"""NCCL's own part of a sum of 8 KB, called without MLX: directly, captured, as part of a graph.

MLX 0.32 captures each collective into a graph of its own and adds that to the graph of its other
operations (backend/cuda/distributed.cu), so this does the same, step by step.
"""

from __future__ import annotations

import ctypes
import os
import site
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machines import RANK, RESULTS, SIZE, keep, say

COUNT, BYTES = 100, 8192
BFLOAT16, SUM = 9, 0
Pointer = ctypes.c_void_p


class UniqueId(ctypes.Structure):
    """``ncclUniqueId``."""

    _fields_ = (("internal", ctypes.c_char * 128),)


class UpdateInfo(ctypes.Structure):
    """``cudaGraphExecUpdateResultInfo``."""

    _fields_ = (("result", ctypes.c_int), ("node", Pointer), ("source", Pointer))


def library(pattern: str) -> Any:
    """A library that NVIDIA's wheels or the system bring. Raises `OSError`."""
    folders = [*site.getsitepackages(), "/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu"]
    for folder in folders:
        for found in sorted(Path(folder).rglob(f"{pattern}*")):
            return ctypes.CDLL(str(found))
    raise OSError(f"no {pattern}")


def good(code: int) -> None:
    """Raise `RuntimeError` unless a call succeeded."""
    if code:
        raise RuntimeError(f"error {code}")


class Sums:
    """A communicator, a stream, and 8 KB on the device."""

    def __init__(self, folder: Path) -> None:
        self.cuda, self.nccl = library("libcudart.so"), library("libnccl.so")
        good(self.cuda.cudaSetDevice(0))
        self.comm, self.stream, self.data = Pointer(), Pointer(), Pointer()
        good(self.cuda.cudaStreamCreate(ctypes.byref(self.stream)))
        good(self.cuda.cudaMalloc(ctypes.byref(self.data), ctypes.c_size_t(BYTES)))
        identity, file = UniqueId(), folder / "nccl-id"
        if RANK == 0:
            good(self.nccl.ncclGetUniqueId(ctypes.byref(identity)))
            whole = file.with_suffix(".part")
            whole.write_bytes(bytes(identity))
            whole.rename(file)
        while not file.exists():
            time.sleep(0.05)
        identity = UniqueId.from_buffer_copy(file.read_bytes())
        good(self.nccl.ncclCommInitRank(ctypes.byref(self.comm), SIZE, identity, RANK))

    def sum(self) -> None:
        """Put one sum on the stream."""
        count = ctypes.c_size_t(BYTES // 2)
        args = (self.data, self.data, count, BFLOAT16, SUM, self.comm, self.stream)
        good(self.nccl.ncclAllReduce(*args))

    def wait(self) -> None:
        good(self.cuda.cudaStreamSynchronize(self.stream))

    def captured(self, count: int) -> Pointer:
        """A graph of `count` sums."""
        graph = Pointer()
        good(self.cuda.cudaStreamBeginCapture(self.stream, 1))
        for _ in range(count):
            self.sum()
        good(self.cuda.cudaStreamEndCapture(self.stream, ctypes.byref(graph)))
        return graph

    def of_children(self, count: int) -> Pointer:
        """A graph of `count` graphs of one sum each, one behind the other, as MLX makes it."""
        graph, before = Pointer(), Pointer()
        good(self.cuda.cudaGraphCreate(ctypes.byref(graph), 0))
        for index in range(count):
            node, child = Pointer(), self.captured(1)
            needs = ctypes.byref(before) if index else None
            size = ctypes.c_size_t(1 if index else 0)
            args = (ctypes.byref(node), graph, needs, size, child)
            good(self.cuda.cudaGraphAddChildGraphNode(*args))
            before = node
            good(self.cuda.cudaGraphDestroy(child))
        return graph

    def ready(self, graph: Pointer) -> Pointer:
        """An executable of `graph`."""
        executable = Pointer()
        flags = ctypes.c_ulonglong(0)
        good(self.cuda.cudaGraphInstantiate(ctypes.byref(executable), graph, flags))
        return executable

    def launch(self, executable: Pointer) -> None:
        good(self.cuda.cudaGraphLaunch(executable, self.stream))


def timed(name: str, call: Callable[[], Any], share: int = COUNT) -> Any:
    """Call it, and note the µs for each sum."""
    begin = time.perf_counter()
    found = call()
    RESULTS[name] = 1e6 * (time.perf_counter() - begin) / share
    say(f"{name}: {RESULTS[name]:.1f} µs a sum")
    keep("nccl")
    return found


def run(folder: Path) -> None:
    """Each way `COUNT` sums, after a warm-up."""
    sums = Sums(folder)

    def direct() -> None:
        for _ in range(COUNT):
            sums.sum()

    direct()
    sums.wait()
    begin = time.perf_counter()
    timed("direct, host", direct)
    sums.wait()
    RESULTS["direct, all"] = 1e6 * (time.perf_counter() - begin) / COUNT
    graph = timed("captured together, host", lambda: sums.captured(COUNT))
    executable = timed("captured together, instantiate", lambda: sums.ready(graph))

    def replay() -> None:
        sums.launch(executable)
        sums.wait()

    replay()
    timed("captured together, replay", replay)
    nested = timed("captured one by one, host", lambda: sums.of_children(COUNT))
    second = timed("captured one by one, instantiate", lambda: sums.ready(nested))
    sums.launch(second)
    timed("captured one by one, first launch and wait", sums.wait)
    again, info = sums.of_children(COUNT), UpdateInfo()

    def update() -> int:
        code: int = sums.cuda.cudaGraphExecUpdate(second, again, ctypes.byref(info))
        return code

    code = timed("captured one by one, update", update)
    RESULTS["update said"] = {"code": code, "result": info.result}
    if code == 0:
        sums.launch(second)
        sums.wait()
    say(f"all: {RESULTS}")
    keep("nccl")
    os._exit(0)  # communicator and graphs go with the process
