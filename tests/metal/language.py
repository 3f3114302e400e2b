"""Holds a generated Metal text to Metal's rules, without a Mac: by clang and by a lint.

`faults(text)` says what Apple's compiler would reject, as far as that can be known: pointers in a
wrong address space or in none (C++ for OpenCL without the generic one), what C++14 doesn't have
(the kernel as the template it is), derived classes, bytes that aren't ASCII (MLX makes an ASCII
string of the text), and more threadgroup memory than a threadgroup may have. Names that Apple's
headers take, its overloads and its compiler's own mistakes don't show here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
THREADGROUP_BYTES = 32 * 1024
"""What Metal gives a threadgroup at most."""

OLDEST, NEWEST = 16, 24
"""Versions of clang to look for; before 16 a bfloat can't be converted."""

SPACES = ("device", "threadgroup", "constant", "thread", "in_threadgroup")

WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Wno-unused",
    "-Wno-unused-parameter",
    "-Wno-sign-compare",
    "-Wno-unknown-attributes",
)
OPENCL = (
    *("-x", "clcpp", "-cl-std=clc++2021", "-target", "amdgcn-amd-amdhsa", "-mcpu=gfx1100"),
    *("-nogpulib", "-Xclang", "-cl-ext=-__opencl_c_generic_address_space"),
)
SPACES_FLAGS = (*OPENCL, *WARNINGS, "-emit-llvm", "-S", "-Xclang", "-disable-llvm-passes")
TEMPLATE_FLAGS = ("-x", "c++", "-std=c++14", "-pedantic-errors", *WARNINGS, "-fsyntax-only")

ATTRIBUTES = {
    "thread_index_in_simdgroup": "uint {} = msl_thread() & 31u;",
    "simdgroup_index_in_threadgroup": "uint {} = msl_thread() >> 5;",
    "thread_position_in_threadgroup": "uint3 {} = uint3{{msl_thread(), 0, 0}};",
    "thread_position_in_grid": "uint3 {} = uint3{{msl_thread() + 32 * msl_group().x, 0, 0}};",
    "threadgroup_position_in_grid": "uint3 {} = msl_group();",
    "threadgroups_per_grid": "uint3 {} = msl_groups();",
}
"""How a kernel's argument is had where it can't be one, by its Metal attribute."""


class Kernel(NamedTuple):
    """A generated text, taken apart."""

    header: str
    parameters: tuple[tuple[str, str], ...]
    """Kind and name of each template parameter."""
    values: tuple[str, ...]
    name: str
    arguments: tuple[tuple[str, str], ...]
    """Declaration and attribute of each argument."""
    body: str


def parsed(metal: str) -> Kernel:
    """The parts of MLX's text: what stands before the kernel, its template, signature and body."""
    pattern = r"(?:template <([^>]*)>\s*)?\[\[kernel\]\] void (\w+)\(\n(.*?)\) \{\n"
    head = re.search(pattern, metal, re.DOTALL)
    assert head, "no kernel in this text"
    tail = re.search(r"\}\s*\ntemplate \[\[host_name.*?<(.*?)>\)", metal[head.end() :], re.DOTALL)
    end = head.end() + tail.start() if tail else metal.rstrip().rindex("}")
    arguments = [re.fullmatch(r"\s*(.*?) \[\[(.*)\]\]", each) for each in head[3].split(",\n")]
    parameters = [tuple(each.split()) for each in head[1].split(", ")] if head[1] else []
    return Kernel(
        metal[: head.start()],
        tuple((kind, name) for kind, name in parameters),
        tuple(tail[1].split(", ")) if tail else (),
        head[2],
        tuple((match[1], match[2]) for match in arguments if match),
        metal[head.end() : end],
    )


def as_opencl(kernel: Kernel, attributes: str = "") -> str:
    """The kernel in C++ for OpenCL, its template's parameters as macros.

    attributes: GNU ones for the kernel, as `benchmarks.registers` sets its limits.
    """
    buffers = [text for text, attribute in kernel.arguments if attribute.startswith("buffer")]
    places = [ATTRIBUTES[a].format(a) for _, a in kernel.arguments if not a.startswith("buffer")]
    bound = zip(kernel.parameters, kernel.values, strict=True)
    macros = "".join(f"#define {name} {value}\n" for (_, name), value in bound)
    limit = f"__attribute__(({attributes})) " if attributes else ""
    return (
        f'#include "msl_clang.h"\n#line 1 "header"\n{kernel.header}\n{macros}'
        f"{limit}__kernel void {kernel.name}({', '.join(buffers)}) {{\n{' '.join(places)}\n"
        f'#line 1 "body"\n{kernel.body}\n}}\n'
    )


def as_template(kernel: Kernel) -> str:
    """The kernel in C++14, with its template instantiated as MLX does."""
    parameters = ", ".join(f"{kind} {name}" for kind, name in kernel.parameters)
    front = f"template <{parameters}>\n" if parameters else ""
    one = f"{kernel.name}<{', '.join(kernel.values)}>"
    end = f"template decltype({one}) {one};" if parameters else ""
    arguments = ", ".join(text for text, _ in kernel.arguments)
    return (
        f'#include "msl_clang.h"\n#line 1 "header"\n{kernel.header}\n{front}'
        f'void {kernel.name}({arguments}) {{\n#line 1 "body"\n{kernel.body}\n}}\n{end}\n'
    )


def faults(metal: str) -> list[str]:
    """What is wrong with a text in Metal's eyes; nothing where it is right."""
    found = linted(metal)
    kernel = parsed(metal)
    with tempfile.TemporaryDirectory() as name:
        said, ir = compiled(as_opencl(kernel), SPACES_FLAGS, Path(name))
        found += [f"address spaces: {line}" for line in said]
        said, _ = compiled(as_template(kernel), TEMPLATE_FLAGS, Path(name))
        found += [f"C++14: {line}" for line in said]
    if (size := threadgroup_bytes(ir)) > THREADGROUP_BYTES:
        found.append(f"{size} bytes of threadgroup memory: Metal gives {THREADGROUP_BYTES}")
    return found


def are_right(metals: Sequence[str]) -> bool:
    """Whether none of the texts has a fault. Clang, whose start takes longest, starts twice.

    Its compiler proper takes many files, each by itself; the program that finds its flags doesn't.
    """
    if any(linted(metal) for metal in metals):
        return False
    kernels = [parsed(metal) for metal in metals]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spaces = _read_alike([as_opencl(kernel) for kernel in kernels], SPACES_FLAGS, folder)
        if not spaces or not _read_alike(list(map(as_template, kernels)), TEMPLATE_FLAGS, folder):
            return False
        made = [path.read_text() for path in folder.glob("*.ll")]
    return len(made) == len(metals) and max(map(threadgroup_bytes, made)) <= THREADGROUP_BYTES


def _read_alike(texts: list[str], flags: tuple[str, ...], folder: Path) -> bool:
    """Whether clang takes all the texts without a word; what it makes lies in `folder`."""
    sources = [folder / f"{index}.txt" for index in range(len(texts))]
    for source, text in zip(sources, texts, strict=True):
        source.write_text(text)
    command = [*_proper(flags), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    return done.returncode == 0 and not done.stderr.strip()


@cache
def _proper(flags: tuple[str, ...]) -> list[str]:
    """The call of clang's compiler proper, up to its files."""
    command = [str(compiler()), *flags, f"-I{HERE}", "-###", os.devnull]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stderr
    words = shlex.split(shown.splitlines()[-1])
    at = words.index("-o") if "-o" in words else len(words)
    return words[:at] + words[at + 2 : -1]


def compiled(text: str, flags: tuple[str, ...], folder: Path) -> tuple[list[str], str]:
    """What clang complained of, a line each, and what it made (nothing for a text that failed)."""
    source, made = folder / "kernel.txt", folder / "made"
    source.write_text(text)
    made.write_text("")
    command = [str(compiler()), *flags, f"-I{HERE}", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if re.search(r" (error|warning): ", line)]
    if done.returncode and not said:
        said = [done.stderr.strip() or f"clang failed with status {done.returncode}"]
    return said, made.read_text() if done.returncode == 0 else ""


def threadgroup_bytes(ir: str) -> int:
    """The size of all threadgroup arrays in LLVM's text of a kernel, padding aside."""
    sizes = {"i8": 1, "half": 2, "bfloat": 2, "i16": 2, "i32": 4, "float": 4, "i64": 8, "ptr": 8}
    total = 0
    for kind in re.findall(r"addrspace\(3\) global (.*?) (?:undef|poison)", ir):
        counts, element = re.findall(r"(\d+) x ", kind), re.findall(r"[a-z]\w*", kind)[-1]
        size = sizes[element]
        for count in counts:
            size *= int(count)
        total += size
    return total


POINTED_AT = {
    *("auto", "bool", "float", "half", "bfloat", "int", "uint", "short", "ushort", "uchar", "vec"),
    *("size_t", "bfloat16_t", "float16_t", "uint32_t", "int32_t"),
    *(f"{kind}{count}" for kind in ("float", "int", "uint", "half") for count in (2, 3, 4)),
}
"""Type names behind which an asterisk or an ampersand makes a pointer or a reference."""

FOREIGN = ("std::", "long long", "thread_local", "dynamic_cast", "typeid", "noexcept", "try")


def linted(metal: str) -> list[str]:
    """What clang lets pass and Metal doesn't."""
    found = [] if metal.isascii() else ["not ASCII"]
    code = re.sub(r'//.*|/\*.*?\*/|"[^"]*"', "", metal)
    found += [f"not in Metal: {word}" for word in FOREIGN if re.search(rf"\b{word}", code)]
    for name, base in re.findall(r"struct (\w+)\s*(?:<[^;{]*>)?\s*:(?!:)([^{;]+)\{", code):
        found.append(f"derived class {name} : {base.strip()}")
    if re.search(r"\[[&=]?\]\s*\(", code):
        found.append("a lambda")
    if re.search(r"\bstatic (?!constant\b|inline\b)[^;(]*[=;]", code):
        found.append("a static that is not constant")
    return found + _without_space(code)


def _without_space(code: str) -> list[str]:
    """Pointers and references that name no address space."""
    names = POINTED_AT | set(re.findall(r"(?:typename|struct) (\w+)", code))
    names |= set(re.findall(r"typedef [^;]*?(\w+);", code))
    qualifiers = rf"((?:\b(?:{'|'.join(SPACES)}|const|constexpr|static|inline)\s+)*)"
    template = r"(?:<(?:[^<>;{}]|<[^<>;{}]*>)*>)?"
    kind = rf"\b({'|'.join(sorted(names))})\b{template}\s*(?:const\s*)?[*&](?![&=])"
    found = []
    for match in re.finditer(qualifiers + kind, code):
        before = code[: match.start()].rstrip()[-1:]
        declares = match[2] == "auto" or match[1] or before in "(,;{}>"
        if declares and not set(match[1].split()) & set(SPACES):
            line = code[: match.start()].count("\n") + 1
            found.append(f"line {line}: no address space: {match[0].strip()}")
    return found


@cache
def compiler() -> Path | None:
    """A clang that knows Metal's likeness, the newest there is, or None."""
    for name in ("clang", *(f"clang-{version}" for version in range(NEWEST, OLDEST - 1, -1))):
        if (path := shutil.which(name)) and _version(path) >= OLDEST:
            return Path(path)
    return None


def _version(path: str) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    match = re.search(r"clang version (\d+)", said)
    return int(match[1]) if match and "Apple" not in said else 0


@cache
def fingerprint() -> bytes:
    """What a verdict depends on besides the text: this checker, its header, and the compiler."""
    files = (Path(__file__), HERE / "msl_clang.h")
    text = b"".join(file.read_bytes() for file in files) + str(compiler()).encode()
    return hashlib.sha256(text).digest()


def _verdict(metal: str, folder: Path) -> Path:
    key = hashlib.sha256(metal.encode() + fingerprint()).hexdigest()[:24]
    return folder / f"{key}.faults"


def remember_right(metals: Sequence[str], folder: Path) -> None:
    """Have `cached_faults` know of texts that are right together; of others it asks singly."""
    new = [metal for metal in metals if not _verdict(metal, folder).exists()]
    if new and are_right(new):
        for metal in new:
            _verdict(metal, folder).touch()


def cached_faults(metal: str, folder: Path) -> list[str]:
    """`faults`, remembered in `folder` by the hash of the text."""
    verdict = _verdict(metal, folder)
    if not verdict.exists():
        part = verdict.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        part.write_text("\n".join(faults(metal)))
        part.replace(verdict)
    return [line for line in verdict.read_text().split("\n") if line]
