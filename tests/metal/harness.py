"""Runs the kernels where tests run: on the GPU if there is one, else as Metal text on the CPU.

`on_cpu` is an executor for `qwen3_mlx.metal.launch`: it has MLX print the Metal source of a launch
(tracing works without Metal), compiles it with g++ behind msl_cpu.h, and runs it twice, threads
upwards and downwards; the results must be the same bits. A program stays for its next launch.
Where clang is there, the text is held to Metal's rules besides (language.py).
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import numpy as np

from qwen3_mlx.metal import launch as build
from qwen3_mlx.metal.launch import Launch
from tests.metal.language import cached_faults, compiler

HERE = Path(__file__).parent
FLAGS = ["-std=c++20", "-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-w"]
FLAGS += ["-fsanitize=bounds,shift,alignment,integer-divide-by-zero", "-fno-sanitize-recover=all"]
FLAGS += ["-fuse-ld=gold"] if shutil.which("ld.gold") else []  # links in a third of the time

MOST_PROGRAMS = 32
"""Programs that wait for their next launch."""

launches: list[Launch] = []
"""What `on_cpu` has run since `clear` was called on it."""


class KernelError(Exception):
    """A kernel that diverged or left its buffers, or that doesn't compile."""


class LanguageError(Exception):
    """A text that computes well behind msl_cpu.h, and that Metal wouldn't take.

    No `KernelError`: a mutant must be noticed by what it computes, not for how it is written.
    """


@contextmanager
def executing() -> Iterator[list[Launch]]:
    """Within, kernels run on whatever this machine has; yields the list of launches made."""
    before = build.executor
    launches.clear()
    build.executor = on_cpu if backend.device() == "cpu" else _recorded
    mx.disable_compile()  # on_cpu computes at once
    try:
        yield launches
    finally:
        build.executor = before
        mx.enable_compile()


def _recorded(launch: Launch) -> list[mx.array]:
    launches.append(launch)
    return build.on_gpu(launch)


def on_cpu(launch: Launch) -> list[mx.array]:
    """Run `launch` as Metal text; returns its outputs. Raises `KernelError` or `LanguageError`."""
    launches.append(launch)
    mx.eval(list(launch.inputs.values()))
    metal = _source(launch)
    program = compiled(metal)
    if compiler() and (faults := cached_faults(metal, folder())):
        raise LanguageError(f"{launch.kernel}: {'; '.join(faults)}")
    names = input_names(metal)
    inputs = [_bytes(_input(launch, name)) for name in names]
    first, second = _execute(program, launch, inputs)
    for name, a, b in zip(launch.outputs, first, second, strict=True):
        if a != b:
            raise KernelError(f"{launch.kernel}: {name} depends on the order of threads: a race")
    specs = zip(first, launch.outputs.values(), strict=True)
    return [_array(data, shape, dtype) for data, (shape, dtype) in specs]


_sources: dict[tuple, str] = {}


def _source(launch: Launch) -> str:
    """`metal_source`, which reads an array's type and shape and no value, as it was last time."""
    distinct, aliases = build.distinct(launch)
    texts = map(build.text, build.texts(launch, backend.device()))
    key = (
        *(launch.kernel, *texts, *launch.constants.items()),
        *((name, array.shape, array.dtype) for name, array in distinct.items()),
        *((name, *output) for name, output in launch.outputs.items()),
        *(*aliases.items(), launch.grid, launch.threadgroup),
    )
    if key not in _sources:
        _sources[key] = metal_source(launch)
    return _sources[key]


def metal_source(launch: Launch) -> str:
    """The exact Metal text that MLX would compile for `launch`."""

    distinct, aliases = build.distinct(launch)

    def traced(*inputs: mx.array) -> list[mx.array]:
        given = dict(zip(distinct, inputs, strict=True))
        named = {name: given[aliases.get(name, name)] for name in launch.inputs}
        return build.on_gpu(replace(launch, inputs=named), verbose=True)

    with tempfile.TemporaryDirectory() as folder, _captured(Path(folder) / "out") as read:
        mx.export_function(f"{folder}/f.mlxfn", traced, *distinct.values())
        printed = read()
    return printed.split("```")[1]


@contextmanager
def _captured(path: Path) -> Iterator:
    """What C++ prints on standard output meanwhile goes to a file."""
    saved = os.dup(1)
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield path.read_text
        finally:
            os.dup2(saved, 1)
            os.close(saved)


ATTRIBUTES = {
    "thread_index_in_simdgroup": "shim::lane()",
    "simdgroup_index_in_threadgroup": "shim::self() / shim::kLanes",
    "thread_index_in_threadgroup": "shim::self()",
    "thread_position_in_threadgroup": "shim::position_in_group()",
    "thread_position_in_grid": "shim::position_in_grid()",
    "threadgroup_position_in_grid": "shim::group",
    "threads_per_threadgroup": "shim::group_size",
    "threadgroups_per_grid": "shim::groups",
    "threads_per_grid": "shim::grid",
}


def program_text(metal: str) -> str:
    """C++ of the kernel and of the call by which msl_runtime.cpp enters it.

    The template is resolved by hand (its parameters become names of the file): only so can
    threadgroup arrays be gathered in one section.
    """
    pattern = r"template <([^>]*)>\s*\[\[kernel\]\] void (\w+)\((.*?)\) \{"
    head = re.search(pattern, metal, re.DOTALL)
    tail = re.search(r"template \[\[host_name.*?<(.*?)>\) \w+<.*?>;", metal, re.DOTALL)
    assert head and tail, metal
    parameters, name, arguments = head.groups()
    pairs = zip(parameters.split(", "), tail[1].split(", "), strict=True)
    bound = "".join(_binding(parameter, value) for parameter, value in pairs)
    signature, calls, buffers = _arguments(arguments)
    outputs = sum(not argument.startswith("const") for argument in buffers.values())
    names = ", ".join(f'"{buffer}"' for buffer in buffers)
    body = metal[head.end() : tail.start()]
    return f"""#include "msl_cpu.h"
#line 1 "kernel"
{metal[: head.start()]}
namespace {{
{bound}
void {name}({signature}) {{{body}
}}
extern const int kernel_buffers = {len(buffers)}, kernel_outputs = {outputs};
extern const char* const kernel_names[] = {{{names}}};
void kernel_body(void** buffers) {{ {name}({calls}); }}
"""


def input_names(metal: str) -> list[str]:
    """The kernel's input buffers in order: arrays, and `name_shape` where its text asks."""
    return re.findall(r"const (?:device|constant) \w+[*&] (\w+) \[\[buffer", metal)


def _input(launch: Launch, name: str) -> mx.array:
    if name in launch.inputs:
        return launch.inputs[name]
    return mx.array(launch.inputs[name.removesuffix("_shape")].shape, mx.int32)


def _binding(parameter: str, value: str) -> str:
    kind, name = parameter.split()
    return (
        f"using {name} = {value};\n"
        if kind == "typename"
        else f"constexpr {kind} {name} = {value};\n"
    )


def _arguments(text: str) -> tuple[str, str, dict[str, str]]:
    """The C++ parameters, the call's arguments, and the buffers with their Metal declarations."""
    signature, calls, buffers = [], [], {}
    for argument in text.split(",\n"):
        declaration, attribute = re.fullmatch(r"\s*(.*?)\s*\[\[(.*)\]\]", argument).groups()
        name = declaration.split()[-1]
        signature.append(declaration)
        if attribute.startswith("buffer"):
            kind = declaration.removesuffix(name).strip()
            pointer = kind.replace("&", "*")
            calls.append(f"{'*' if '&' in kind else ''}({pointer})buffers[{len(buffers)}]")
            buffers[name] = declaration
        else:
            calls.append(ATTRIBUTES[attribute])
    return ", ".join(signature), ", ".join(calls), buffers


@cache
def folder() -> Path:
    """Where programs are kept, by the hash of their text."""
    path = Path(tempfile.gettempdir()) / f"qwen3-mlx-metal-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _key(text: str, *extra: str) -> str:
    shims = b"".join((HERE / file).read_bytes() for file in ("msl_cpu.h", "msl_runtime.cpp"))
    return hashlib.sha256(text.encode() + shims + repr((FLAGS, extra)).encode()).hexdigest()[:24]


def _compile(target: Path, source: Path, *extra: str) -> None:
    compiler = shutil.which("g++")
    assert compiler, "the Metal text is proven with g++: install it"
    part = target.with_suffix(f".{os.getpid()}")
    command = [compiler, *FLAGS, *extra, f"-I{HERE}", "-o", str(part), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(done.stderr[:4000])
    part.replace(target)


def _build(text: str, suffix: str, *extra: str) -> Path:
    target = folder() / f"{_key(text, *extra)}{suffix}"
    if not target.exists():
        source = target.with_suffix(".cpp")
        source.write_text(text)
        _compile(target, source, *extra)
    return target


@cache
def compiled(metal: str) -> Path:
    """The program of one kernel's Metal text. Raises `KernelError` with the compiler's words."""
    runtime = _build((HERE / "msl_runtime.cpp").read_text(), ".o", "-c", "-O2")
    return _build(program_text(metal), ".exe", str(runtime))


_programs: dict[Path, subprocess.Popen[str]] = {}
_one_launch = threading.Lock()


def end_programs(rest: int = 0) -> None:
    """End those that wait for their next launch, but for the `rest` used last."""
    for program in list(_programs)[: len(_programs) - rest]:
        waiting = _programs.pop(program)
        waiting.communicate()


atexit.register(end_programs)


def _started(program: Path) -> subprocess.Popen[str]:
    running = _programs.pop(program, None)
    if running is None or running.poll() is not None:
        end_programs(MOST_PROGRAMS - 1)
        pipe = subprocess.PIPE
        running = subprocess.Popen([program], stdin=pipe, stdout=pipe, text=True)
    _programs[program] = running  # at the end: it was used last
    return running


def _run(program: Path, line: str) -> list[int]:
    """The exit statuses of a launch's two orders."""
    with _one_launch:
        running = _started(program)
        running.stdin.write(f"{line}\n")
        running.stdin.flush()
        answer = running.stdout.readline()
    return [os.waitstatus_to_exitcode(int(status)) for status in answer.split()]


def _execute(program: Path, launch: Launch, inputs: list[bytes]) -> list[list[bytes]]:
    """The outputs, of threads upwards and of threads downwards."""
    with tempfile.TemporaryDirectory(dir=_memory()) as name:
        where = Path(name)
        for index, data in enumerate(inputs):
            (where / str(index)).write_bytes(data)
        for index, (shape, dtype) in enumerate(launch.outputs.values(), len(inputs)):
            with (where / str(index)).open("wb") as file:
                file.truncate(math.prod(shape) * dtype.size)
        sizes = [str(n) for n in (*launch.grid, *launch.threadgroup)]
        codes = _run(program, " ".join([name, *sizes]))
        for order, code in enumerate(codes):
            if code:
                said = (where / f"said.{order}").read_text()
                raise KernelError(f"{launch.kernel}: {said or f'ended with status {code}'}")
        assert len(codes) == 2, f"{program} ended before it answered"
        indices = range(len(inputs), len(inputs) + len(launch.outputs))
        return [[(where / f"{i}.{order}").read_bytes() for i in indices] for order in (0, 1)]


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _bytes(array: mx.array) -> bytes:
    return (
        bytes(np.array(mx.contiguous(array).view(mx.uint8)))
        if array.ndim
        else bytes(np.array(array))
    )


def _array(data: bytes, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    return mx.array(np.frombuffer(data, np.uint8)).view(dtype).reshape(shape)
