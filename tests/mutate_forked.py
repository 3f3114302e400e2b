"""One pytest that has collected a room's tests and forks for each mutant: `tests.mutate` asks it.

It first runs all tests, and notes what each takes and which functions of the room it calls. A
mutant of a function's body is then put into the functions that are already there, in a fork that
runs the tests that call them, the quickest files first, until one fails. What only an import runs,
or only another program, it can't judge: whoever asks tries what it doesn't find in a fresh process.
Where a test file computes while it is collected, it judges nothing: a fork has MLX's state without
its threads, and would wait forever.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import NamedTuple

import pytest
from _pytest.runner import runtestprotocol

PIPES = "QWEN3_MUTATE_PIPES"
IN_A_BODY = 3  # co_flags of functions, comprehensions and lambdas: OPTIMIZED | NEWLOCALS


class Known(NamedTuple):
    """What a test takes, in seconds of its process, and the functions that it calls."""

    seconds: float
    calls: frozenset[tuple[str, str, int]]


class Forks:
    """The pytest that forks, seen from outside: `failed` are tests that fail without a mutant."""

    def __init__(self, command: list[str], environment: dict[str, str], copy: Path) -> None:
        asked, self._ask = os.pipe()
        self._answer, answers = os.pipe()
        plugin = ["-p", "tests.mutate_forked", f"--basetemp={copy.parent / (copy.name + '-tests')}"]
        quiet = subprocess.DEVNULL
        self._program = subprocess.Popen(
            [*command, *plugin],
            cwd=copy,
            env=environment | {PIPES: f"{asked},{answers}"},
            pass_fds=(asked, answers),
            stdout=quiet,
            stderr=quiet,
        )
        os.close(asked)
        os.close(answers)
        self._answers = os.fdopen(self._answer)
        self.failed: list[str] = json.loads(self._answers.readline() or '["none is collected"]')

    def finds(self, file: Path, text: str, seconds: float) -> bool:
        """Whether a test fails with `text` in place of `file`, of the copy; False where unknown."""
        os.write(self._ask, (json.dumps([str(file), text, seconds]) + "\n").encode())
        return bool(json.loads(self._answers.readline() or "false"))

    def close(self) -> None:
        """End it."""
        os.close(self._ask)
        self._program.wait(60)
        self._answers.close()


def pytest_runtestloop(session: pytest.Session) -> bool:
    """In place of pytest's own loop: the tests once, then each mutant that is asked for."""
    asked, answers = (os.fdopen(int(n), mode) for n, mode in zip(_pipes(), "rw", strict=True))
    note = Path(session.config.option.basetemp + "-known")
    known = {} if _has_threads() else _profile(session, note)
    failed = [item.nodeid for item in session.items if item.nodeid not in known]
    print(json.dumps(failed), file=answers, flush=True)
    for line in asked:
        file, text, seconds = json.loads(line)
        print(json.dumps(_finds(session, known, file, text, seconds)), file=answers, flush=True)
    return True


def _has_threads() -> bool:
    """Whether this process has another thread, Python's or MLX's, as far as the system tells."""
    tasks = Path("/proc/self/task")
    return threading.active_count() > 1 or (tasks.exists() and len(list(tasks.iterdir())) > 1)


def _pipes() -> list[str]:
    return os.environ.pop(PIPES).split(",")


def _forked(work: Callable[[], int], seconds: float) -> int | None:
    """The exit status of `work` in a fork, negative for a signal; None after `seconds`."""
    if not (pid := os.fork()):
        status = 2
        try:
            os.setsid()
            status = work()
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(done[1])


def _passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    reports = runtestprotocol(item, nextitem=following, log=False)
    return not any(report.failed for report in reports)


def _profile(session: pytest.Session, note: Path) -> dict[str, Known]:
    """What each test that passes takes and calls, by its name."""

    def work() -> int:
        with note.open("w") as file:
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                seen: dict[int, CodeType] = {}

                def called(frame: FrameType, event: str, arg: object, seen: dict = seen) -> None:
                    seen[id(frame.f_code)] = frame.f_code

                start = time.process_time()
                threading.settrace(called)
                sys.settrace(called)
                passed = _passes(item, following)
                sys.settrace(None)
                took = time.process_time() - start
                own = [_key(code) for code in seen.values() if "qwen3_mlx" in code.co_filename]
                if passed:
                    print(json.dumps([item.nodeid, took, own]), file=file, flush=True)
        return 0

    _forked(work, 3600)
    lines = [json.loads(line) for line in note.read_text().splitlines()]
    return {name: Known(took, frozenset(map(tuple, own))) for name, took, own in lines}


def _key(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _finds(
    session: pytest.Session, known: dict[str, Known], file: str, text: str, seconds: float
) -> bool:
    good = Path(file).read_text("utf-8")
    # `ast.unparse` alone changes classes and modules, as it made the mutant's text
    unparsed = compile(ast.unparse(ast.parse(good)), file, "exec")
    new = compile(text, file, "exec")
    differ = [_own(one) != _own(other) for one, other in _pairs(unparsed, new)]
    pairs = list(_pairs(compile(good, file, "exec"), new))
    changed = [old for (old, _), other in zip(pairs, differ, strict=True) if other]
    if not all(code.co_flags & IN_A_BODY for code in changed):
        return False
    keys = {_key(code) for code in changed}
    chosen = _quick_first([i for i in session.items if i.nodeid in known], known, keys)
    limit = 20 + int(10 * sum(known[item.nodeid].seconds for item in chosen))

    def work() -> int:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        _put({_key(old): other for old, other in pairs})
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            if not _passes(item, following):
                return 1
        return 0

    return bool(chosen) and _forked(work, seconds) not in (0, None)


def _quick_first(
    items: list[pytest.Item], known: dict[str, Known], keys: set[tuple[str, str, int]]
) -> list[pytest.Item]:
    """The tests that call one of `keys`, by file (for its fixtures), the quickest first."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if known[item.nodeid].calls & keys:
            files.setdefault(item.path, []).append(item)
    for group in files.values():
        group.sort(key=lambda item: known[item.nodeid].seconds)
    ordered = sorted(files.values(), key=lambda group: sum(known[i.nodeid].seconds for i in group))
    return [item for group in ordered for item in group]


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Each code object of a file and the one in its place."""
    yield old, new
    inner = ([c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new))
    for one, other in zip(*inner, strict=True):
        yield from _pairs(one, other)


def _own(code: CodeType) -> tuple[object, ...]:
    constants = [repr(c) for c in code.co_consts if not isinstance(c, CodeType)]
    return code.co_code, code.co_names, constants


def _put(new: dict[tuple[str, str, int], CodeType]) -> None:
    """Other code in the functions that there are."""
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and (code := new.get(_key(one.__code__))):
            one.__code__ = code
