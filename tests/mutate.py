"""Mutants of a room: small faults put into its code, which its tests must find.

    python -m tests.mutate ROOM N [--seed 0] [--seconds 300] [--at-once 1]

Works in a copy of the repository, never in the tree itself. Each mutant changes one operator,
comparison, number or condition, drops one `not` or swaps `and` and `or`; the room's own tests run
until the first fails: in a fork those that call the changed function (`tests.mutate_forked`), and
where none of them finds it all in a fresh process, those first that name the changed file most
often. Without a mutant they must pass there. Prints the survivors, each by file, line and change,
and a line of counts; where tests took too long it says so, for a busy machine is slow too. Ctrl-C
ends it with the counts so far.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import deepcopy
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import Queue
from typing import NamedTuple

from tests.mutate_forked import Forks

ROOT = Path(__file__).parents[1]
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Mutant(NamedTuple):
    """One changed file: where, what, and its whole new text."""

    file: Path
    line: int
    change: str
    text: str


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    """`node` with one thing changed, for each thing that can be."""
    operator = getattr(node, "op", None)
    if type(operator) in SWAPS:
        yield _with(node, op=SWAPS[type(operator)]())
    if isinstance(node, ast.Compare):
        for n, one in enumerate(node.ops):
            if type(one) in SWAPS:
                yield _with(node, ops=[*node.ops[:n], SWAPS[type(one)](), *node.ops[n + 1 :]])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    copy = deepcopy(node)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def _sites(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Parents, the field and place of a child, and the child: annotations are left out."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns", "type_params"):
                continue
            for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.operator | ast.cmpop):
                    yield parent, name, place, child


def mutants(file: Path) -> Iterator[Mutant]:
    """All mutants of one file."""
    tree = ast.parse(file.read_text("utf-8"))
    notes = {id(n) for a in _annotations(tree) for n in ast.walk(a)}
    for parent, name, place, child in list(_sites(tree)):
        if id(child) in notes:
            continue
        for other in _changed(child):
            change = f"{ast.unparse(child)}  ->  {ast.unparse(other)}"
            _put(parent, name, place, other)
            text = ast.unparse(tree)
            _put(parent, name, place, child)
            yield Mutant(file, getattr(child, "lineno", 0), change, text)


def _put(parent: ast.AST, name: str, place: int | None, child: ast.AST) -> None:
    if place is None:
        setattr(parent, name, child)
    else:
        getattr(parent, name)[place] = child


def _annotations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if isinstance(found := getattr(node, name, None), ast.AST):
                yield found
        # what a dataclass forbids changes nothing that it does
        decorators = getattr(node, "decorator_list", [])
        yield from (one for one in decorators if "dataclass" in ast.unparse(one))
        # what is asserted of lengths that are always equal
        yield from (one for one in getattr(node, "keywords", []) if one.arg == "strict")


def nearest_first(tests: list[str], module: str, root: Path) -> list[str]:
    """The test files, those first that name `module` most often: most mutants end in the first."""
    files = [f for t in tests for f in (sorted((root / t).rglob("test_*.py")) or [root / t])]
    word = re.compile(rf"\b{re.escape(module)}\b")
    files.sort(key=lambda file: -len(word.findall(file.read_text("utf-8"))))
    return [str(file.relative_to(root)) for file in files]


def pytest_of(copy: Path, tests: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that run the tests of a copy."""
    before = os.environ.get("PYTHONPATH", "")
    own = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{before}".rstrip(os.pathsep)}
    own["PYTHONDONTWRITEBYTECODE"] = "1"
    own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a second of each start
    own.pop("PYTEST_ADDOPTS", None)  # those of a plugin would be unknown
    options = ["-q", "-x", "-p", "no:cacheprovider", "--assert=plain", "-o", "addopts="]
    return [sys.executable, "-m", "pytest", *options, *tests], own


def passes(copy: Path, tests: list[str], seconds: float) -> bool | None:
    """Whether the tests pass in `copy`; None where they took too long."""
    command, own = pytest_of(copy, tests)
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        done = subprocess.run(command, cwd=copy, env=own, timeout=seconds, check=False, **quiet)  # type: ignore[call-overload]  # the two streams
        return bool(done.returncode == 0)
    except subprocess.TimeoutExpired:
        return None


def lives(
    mutant: Mutant, copy: Path, tests: list[str], seconds: float, forks: Forks | None = None
) -> bool | None:
    """Whether the tests pass in `copy` with the mutant in it; None where they took too long."""
    target = copy / mutant.file.relative_to(ROOT)
    if forks and forks.finds(target, mutant.text, seconds):
        return False
    good = target.read_text("utf-8")
    target.write_text(mutant.text, "utf-8")
    try:
        return passes(copy, nearest_first(tests, mutant.file.stem, copy), seconds)
    finally:
        target.write_text(good, "utf-8")


def copies_of(folder: Path, count: int) -> list[Path]:
    """As many copies of the repository, compiled."""
    first = folder / "copy-0"
    hidden = shutil.ignore_patterns(".git", ".venv", ".gpu", "__pycache__", ".*_cache", "*.svg")
    shutil.copytree(ROOT, first, ignore=hidden)
    # checked by its hash: a mutant may have its original's size and second
    compileall.compile_dir(first, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    others = [folder / f"copy-{n}" for n in range(1, count)]
    for other in others:
        shutil.copytree(first, other)
    return [first, *others]


def tried(
    chosen: list[Mutant], copies: dict[Path, Forks], tests: list[str], seconds: float
) -> Iterator[tuple[Mutant, bool | None]]:
    """Each mutant and whether it lives, as it is known; one at a time in each copy."""
    free: Queue[tuple[Path, Forks]] = Queue()
    for copy in copies.items():
        free.put(copy)

    def one(mutant: Mutant) -> tuple[Mutant, bool | None]:
        copy, forks = free.get()
        try:
            return mutant, lives(mutant, copy, tests, seconds, forks)
        finally:
            free.put((copy, forks))

    with ThreadPoolExecutor(len(copies)) as pool:
        waiting = [pool.submit(one, mutant) for mutant in chosen]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> int:
    """Try the mutants that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("room")
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--at-once", type=int, default=1, help="copies, one mutant in each")
    parser.add_argument("--files", default="*.py", help="of the room: a pattern")
    parser.add_argument("--tests", nargs="*", help="in place of tests/ROOM")
    asked = parser.parse_args()
    files = sorted((ROOT / "qwen3_mlx" / asked.room).rglob(asked.files))
    every = [mutant for file in files for mutant in mutants(file)]
    chosen = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    tests = asked.tests or [f"tests/{asked.room}"]
    found: list[bool | None] = []
    with tempfile.TemporaryDirectory() as folder:
        copies = {c: Forks(*pytest_of(c, tests), c) for c in copies_of(Path(folder), asked.at_once)}
        failed = [name for forks in copies.values() for name in forks.failed]
        if failed and not passes(next(iter(copies)), tests, 4 * asked.seconds):
            print(f"{asked.room}: its tests fail without a mutant", flush=True)
            return 2
        with contextlib.suppress(KeyboardInterrupt):
            for mutant, outcome in tried(chosen, copies, tests, asked.seconds):
                found.append(outcome)
                if outcome is not False:
                    where = f"{mutant.file.relative_to(ROOT)}:{mutant.line}"
                    slow = " (too slow to tell)" if outcome is None else ""
                    print(f"  {where}: {mutant.change}{slow}", flush=True)
        for forks in copies.values():
            forks.close()
    counts = f"{found.count(True)} survive, {found.count(None)} too slow to tell"
    print(f"{asked.room}: {len(found)} of {len(every)} mutants, {counts}", flush=True)
    return int(found.count(False) < len(found))


if __name__ == "__main__":
    sys.exit(main())
