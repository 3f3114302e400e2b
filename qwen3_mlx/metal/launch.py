"""Launches kernels from their source, which is package data varied only by template constants."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

Constant = int | bool | mx.Dtype
Size = tuple[int, int, int]

SIMD = 32
"""Threads of a simdgroup (a warp on CUDA), the same on every GPU that MLX supports."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel call, independent of the executor that runs it."""

    kernel: str
    inputs: Mapping[str, mx.array]
    """Every name that the source reads, in order. An array given twice is passed once, under its
    first name: each input costs the host time, and most repeated ones only stand in for an input
    that is not read."""
    outputs: Mapping[str, tuple[Sequence[int], mx.Dtype]]
    constants: Mapping[str, Constant]
    grid: Size
    """The total number of threads, not of threadgroups."""
    threadgroup: Size
    staged: bool = False
    """Whether to use the source that first copies the activations into threadgroup memory."""
    repeated: frozenset[str] = frozenset()
    """Names that are passed even if their array is given twice, so that one source serves."""


def run(launch: Launch) -> list[mx.array]:
    """The outputs of `launch`, lazy, computed by the current `executor`."""
    return executor(launch)


def distinct(launch: Launch) -> tuple[dict[str, mx.array], dict[str, str]]:
    """The inputs to pass, and for each omitted name the name of the same array."""
    first: dict[int, str] = {}
    aliases = {}
    for name, array in launch.inputs.items():
        if name in launch.repeated:
            continue
        if (held := first.setdefault(id(array), name)) != name:
            aliases[name] = held
    passed = {name: a for name, a in launch.inputs.items() if name not in aliases}
    return passed, aliases


def on_gpu(launch: Launch, verbose: bool = False) -> list[mx.array]:
    """Run `launch` on MLX's GPU; `verbose` prints the generated source."""
    inputs, aliases = distinct(launch)
    device = backend.device()
    names = (tuple(inputs), tuple(launch.outputs), tuple(aliases.items()))
    return kernel(device, launch.kernel, texts(launch, device), *names)(
        inputs=list(inputs.values()),
        output_shapes=[shape for shape, _ in launch.outputs.values()],
        output_dtypes=[dtype for _, dtype in launch.outputs.values()],
        template=list(launch.constants.items()),
        grid=launch.grid,
        threadgroup=launch.threadgroup,
        verbose=verbose,
    )


executor: Callable[[Launch], list[mx.array]] = on_gpu
"""The function that runs launches. Tests without a GPU replace it by one for the CPU."""

trusted = True
"""Whether executors other than `on_gpu` need no proof. Tests of the proof set it to False."""


@contextmanager
def executing_with(other: Callable[[Launch], list[mx.array]]) -> Iterator[None]:
    """Replace `executor` by `other` within the block, for all threads."""
    global executor
    before, executor = executor, other
    try:
        yield
    finally:
        executor = before


HELPERS = {
    "matvec": ("loads", "rows", "{packing}_rows", "{staging}"),
    "gate_up": ("loads", "rows", "{packing}_rows", "{staging}"),
    "gate_up chosen": ("loads", "rows", "{packing}_rows", "{staging}", "choose"),
    "route": ("choose",),
    "down": ("loads", "rows", "{packing}_rows", "{staging}"),
    "attend": ("loads", "heads", "shares", "{packing}_shares", "{pasts}"),
    "gather_matmul": ("units",),
    "skinny": ("units", "few_units"),
}
"""Files of shared functions that precede a kernel's source, by its name and further outputs."""

STAND_INS = {"gather_matmul": ("tiles",), "skinny": ("tiles",)}
"""Further files that a kernel needs where `cuda.h` doesn't precede it."""


def texts(launch: Launch, device: str) -> tuple[str, ...]:
    """The files of this package that form the source of `launch`, the kernel's body last."""
    further = "".join(f" {output}" for output in list(launch.outputs)[1:])
    name = launch.kernel
    packing = "packed" if launch.constants.get("GROUP") else "plain"
    staging = "staged" if launch.staged else "unstaged"
    pasts = "one_past" if launch.constants.get("SEQUENCES") == 1 else "many_pasts"
    helpers = HELPERS.get(name + further, HELPERS.get(name, ()))
    named = [h.format(packing=packing, staging=staging, pasts=pasts) for h in helpers]
    before = (
        ["cuda.h"]
        if device == "cuda"
        else ["metal.h", *map("{}.metal".format, STAND_INS.get(name, ()))]
    )
    return (
        *before,
        *(f"{helper}.metal" for helper in named),
        f"{name}{'_staged' * launch.staged}.metal",
    )


@cache
def kernel(
    device: str,
    name: str,
    files: tuple[str, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    aliases: tuple[tuple[str, str], ...],
) -> Any:
    """MLX's callable for the kernel `name`; it compiles at its first use with new constants."""
    *helpers, body = files
    renamed = "".join(f"#define {alias} {held}\n" for alias, held in aliases)
    renamed += "".join(f"#define HAS_{output}\n" for output in outputs[1:])
    if device == "cuda":
        header = "".join(map(included, helpers)) + renamed
        return mx.fast.cuda_kernel(f"qwen3_{name}", inputs, outputs, included(body), header)
    header = "".join(squeezed(text(file)) for file in helpers) + renamed
    safe = {"math_mode": "safe"}  # preserves NaN and infinities
    return mx.fast.metal_kernel(
        f"qwen3_{name}", inputs, outputs, squeezed(text(body)), header, compile_options=safe
    )


def included(file: str) -> str:
    """An ``#include`` line for CUDA's compiler that names a source file of this package.

    MLX hashes the source at every launch, 10 KB if the files are passed whole. The comment names
    the shapes that the file reads: MLX passes only shapes whose names it finds in the source.
    """
    path = files(__package__).joinpath(file)
    if not isinstance(path, Path):  # in an archive, so there is no file to include
        return text(file)
    shapes = sorted(set(re.findall(r"\w+_(?:shape|strides|ndim)\b", text(file))))
    return f'#include "{path.as_posix()}"  // {" ".join(shapes)}\n'


@cache
def text(file: str) -> str:
    """The text of a source file of this package, without comments and indentation."""
    source = files(__package__).joinpath(file).read_text("utf-8")
    lines = (re.sub(r"//.*", "", line).strip() for line in source.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def squeezed(text: str) -> str:
    """`text` without needless spaces; line breaks stay.

    MLX hashes the source at every launch, so every needless character costs time.
    """
    lines = (
        line
        if line.startswith("#")
        else re.sub(r" ?([;,(){}\[\]=?:<>|*%&+]|(?<!/)/) ?", r"\1", line)
        for line in text.splitlines()
    )
    return "".join(f"{line}\n" for line in lines)
