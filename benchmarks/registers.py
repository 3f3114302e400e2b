"""How many registers the kernels want: a stand-in for Apple's compiler, which nobody has here.

``python -m benchmarks.registers [SHAPE…]`` compiles the decode step's Metal texts for an AMD GPU of
32 lanes and 32-bit registers (clang's gfx1100), and finds how few registers do without a spill. A
difference of a fifth means nothing, a factor of two does. Beside it, what threadgroup memory
allows: how many simdgroups a core of an M1 or M2 holds at once, of the 24 that fill it. Exits with
1 where a limit is broken.
"""

from __future__ import annotations

import bisect
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)

import mlx.core as mx

from qwen3_mlx.bench.random_network import SHAPES
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal.launch import SIMD, Launch
from qwen3_mlx.metal.variants import PLAIN, Packing, Signature, variants
from tests.metal.harness import metal_source
from tests.metal.language import (
    OPENCL,
    SPACES_FLAGS,
    as_opencl,
    compiled,
    parsed,
    threadgroup_bytes,
)

LIMITS = {"matvec": 96, "gate_up": 128, "down": 112, "attend": 104}
"""Registers that a kernel may want at most; of all others, what M1 and M2 give a thread."""

MOST = 128
"""Registers of a thread on M1 and M2."""

OPTIMISED = (*OPENCL, "-O3", "-ffp-contract=off", "-S")

STEPS = (48, 64, 80, 96, 104, 112, 128, 192)
"""How many to try; `attend`'s 104 is where 512 threads still fit."""

CORE_BYTES = 60 * 1024
"""Threadgroup memory of a core of M1 and M2."""

ENOUGH = 16
"""Simdgroups that a core should hold at once."""

PACKINGS = (
    ((4, 64), PLAIN),
    ((4, 64), (8, 64)),
    ((4, 64), (4, 64)),
    ((8, 64), PLAIN),
    (PLAIN, PLAIN),
)
"""Of the weights, and of the cache."""

SHAPES_TRIED = ("8b", "30b-a3b")


def fewest(metal: str) -> tuple[int, int]:
    """The fewest registers, of `STEPS`, without a spill, and the bytes of threadgroup memory."""
    kernel = parsed(metal)
    with tempfile.TemporaryDirectory() as name:
        _, ir = compiled(as_opencl(kernel), SPACES_FLAGS, Path(name))

        def enough(registers: int) -> bool:
            """Whether it does with so many, its scheduler told or not (it is no good at either)."""
            limit = f"amdgpu_num_vgpr({registers})"
            told = f"{limit}, amdgpu_waves_per_eu({min(16, 1536 // registers)})"
            for attributes in (told, limit):
                text = as_opencl(kernel, attributes)
                _, assembly = compiled(text, OPTIMISED, Path(name))
                if re.search(r"\.vgpr_spill_count:\s+0\b", assembly):
                    return True
            return False

        place = bisect.bisect_left(STEPS, True, key=enough)
    return (*STEPS, 256)[place], threadgroup_bytes(ir)


def simdgroups(launch: Launch, size: int) -> int:
    """How many simdgroups of `launch` a core's threadgroup memory has room for, 24 at most."""
    threads = launch.threadgroup[0]
    return min(24, CORE_BYTES // size * threads // SIMD) if size else 24


def signature(shape: str, packing: Packing, kept: Packing) -> Signature:
    """The published `shape` in bfloat16, its weights and its cache packed so."""
    config = Qwen3Config.from_dict(SHAPES[shape].config())
    return Signature.of(config, mx.bfloat16, packing, (8, 64) if packing[0] else PLAIN, kept)


def launches() -> Iterator[tuple[str, Launch]]:
    """The decode step's, in bfloat16, by shape and packing."""
    for shape in sys.argv[1:] or SHAPES_TRIED:
        for packing, kept in PACKINGS:
            network = signature(shape, packing, kept)
            for launch in variants(network):
                if launch.kernel != "gather_matmul":  # off on Metal
                    yield f"{shape} {packing[0] or 16} bits", launch


def main() -> None:
    """Print a line a text, worst first, and what breaks a limit."""
    texts = {metal_source(launch): (name, launch) for name, launch in launches()}
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fewest, texts))
    rows = []
    for (name, launch), (registers, size) in zip(texts.values(), found, strict=True):
        held = simdgroups(launch, size)
        good = registers <= LIMITS.get(launch.kernel, MOST) and held >= ENOUGH
        rows.append((registers, launch.kernel, name, size, held, good))
    for registers, kernel, name, size, held, good in sorted(rows, reverse=True):
        mark = "" if good else "  <- over its limit"
        print(
            f"{kernel:9} {name:20} {registers:4} registers {size:6} bytes {held:3} simdgroups{mark}"
        )
    sys.exit(not all(row[-1] for row in rows))


if __name__ == "__main__":
    main()
