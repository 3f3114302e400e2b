"""Runs the kernels where tests run: on the GPU if there is one, else as Metal text on the CPU.

`on_cpu` is an executor for `qwen3_mlx.metal.launch`: it has MLX print the Metal source of a launch
(tracing works without Metal), compiles it with g++ behind msl_cpu.h, and runs it twice, threads
upwards and downwards; the results must be the same bits. One program runs all of a process's.
Where clang is there, the text is held to Metal's rules besides (language.py): at once, or with all
others of a module of tests, which is cheaper.
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
from tests.metal.language import cached_faults, compiler, remember_right

HERE = Path(__file__).parent
FLAGS = ["-std=c++20", "-fno-strict-aliasing", "-ffp-contract=off", "-w"]
FLAGS += ["-fsanitize=bounds,shift,alignment,integer-divide-by-zero", "-fno-sanitize-recover=all"]
FLAGS += ["-fuse-ld=gold"] if shutil.which("ld.gold") else []  # links in a third of the time
# Short runs: -O1 takes longer to compile than it saves, -O0 the other way round.
KERNEL = ["-Og", "-fPIC", "-shared", "-nostdlib", "-fno-exceptions"]
# What kernels call besides: mathematics, and from -rdynamic the shim's own.
PROGRAM = ["-O2", "-rdynamic", "-Wl,--no-as-needed", "-lm", "-ldl"]

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
    library = compiled(metal)
    hold_to_metal(metal, launch.kernel)
    names = input_names(metal)
    inputs = [_bytes(_input(launch, name)) for name in names]
    first, second = _execute(library, launch, inputs)
    for name, a, b in zip(launch.outputs, first, second, strict=True):
        if a != b:
            raise KernelError(f"{launch.kernel}: {name} depends on the order of threads: a race")
    specs = zip(first, launch.outputs.values(), strict=True)
    return [_array(data, shape, dtype) for data, (shape, dtype) in specs]


_unread: dict[str, str] | None = None
"""Texts that are not yet held to Metal's rules, and their kernels; None where each is at once."""


def hold_to_metal(metal: str, kernel: str) -> None:
    """Raises `LanguageError` for a text that Metal rejects: at once, or see `reading_together`."""
    if _unread is None:
        _read(metal, kernel)
    else:
        _unread[metal] = kernel


def _read(metal: str, kernel: str) -> None:
    if compiler() and (faults := cached_faults(metal, folder())):
        raise LanguageError(f"{kernel}: {'; '.join(faults)}")


@contextmanager
def reading_together() -> Iterator[None]:
    """Within, texts are gathered; at the end clang, whose start takes longest, reads them all."""
    global _unread
    before, _unread = _unread, {}
    try:
        yield
    finally:
        gathered, _unread = _unread, before
    if compiler():
        remember_right(list(gathered), folder())
    for metal, kernel in gathered.items():
        _read(metal, kernel)


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
static const char* const kernel_names[] = {{{names}}};
static void kernel_body(void** buffers) {{ {name}({calls}); }}
extern "C" const shim::Kernel shim_kernel = {{{len(buffers)}, {outputs}, kernel_names, kernel_body,
  __start_threadgroup_memory, __stop_threadgroup_memory}};
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


def _built(name: str, text: str, flags: list[str]) -> Path:
    """What g++ makes of a C++ text, kept under `name` and the hash of all that it depends on."""
    flags = [*FLAGS, *flags]
    header = (HERE / "msl_cpu.h").read_text()
    key = hashlib.sha256(repr((text, header, flags)).encode()).hexdigest()[:24]
    target = folder() / f"{key}.{name}"
    if not target.exists():
        source = target.with_suffix(".cpp")
        source.write_text(text)
        _compile(target, source, flags)
    return target


def _compile(target: Path, source: Path, flags: list[str]) -> None:
    compiler = shutil.which("g++")
    assert compiler, "the Metal text is proven with g++: install it"
    part = target.with_suffix(f".{os.getpid()}")
    command = [compiler, f"-I{HERE}", "-o", str(part), str(source), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(done.stderr[:4000])
    part.replace(target)


@cache
def compiled(metal: str) -> Path:
    """The library of one kernel's Metal text. Raises `KernelError` with the compiler's words."""
    return _built("so", program_text(metal), [*KERNEL, "-lgcc"])


@cache
def runner() -> Path:
    """The program that runs all libraries."""
    return _built("exe", (HERE / "msl_runtime.cpp").read_text(), PROGRAM)


_running: subprocess.Popen[str] | None = None
_one_launch = threading.Lock()


def end_program() -> None:
    """End the one that waits for its next launch."""
    global _running
    if _running is not None:
        _running.communicate()
        _running = None


atexit.register(end_program)


def _run(line: str) -> list[int]:
    """The exit statuses of a launch's two orders."""
    global _running
    with _one_launch:
        if _running is None or _running.poll() is not None:
            pipe = subprocess.PIPE
            _running = subprocess.Popen([runner()], stdin=pipe, stdout=pipe, text=True)
        assert _running.stdin
        assert _running.stdout
        _running.stdin.write(f"{line}\n")
        _running.stdin.flush()
        answer = _running.stdout.readline()
    return [os.waitstatus_to_exitcode(int(status)) for status in answer.split()]


def _execute(library: Path, launch: Launch, inputs: list[bytes]) -> list[list[bytes]]:
    """The outputs, of threads upwards and of threads downwards."""
    with tempfile.TemporaryDirectory(dir=_memory()) as name:
        where = Path(name)
        for index, data in enumerate(inputs):
            (where / str(index)).write_bytes(data)
        for index, (shape, dtype) in enumerate(launch.outputs.values(), len(inputs)):
            with (where / str(index)).open("wb") as file:
                file.truncate(math.prod(shape) * dtype.size)
        sizes = [str(n) for n in (*launch.grid, *launch.threadgroup)]
        codes = _run(" ".join([str(library), name, *sizes]))
        for order, code in enumerate(codes):
            if code:
                said = (where / f"said.{order}").read_text()
                raise KernelError(f"{launch.kernel}: {said or f'ended with status {code}'}")
        assert len(codes) == 2, f"the program ended before it had run {library}"
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
