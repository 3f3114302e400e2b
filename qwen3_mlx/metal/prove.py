"""Checks in child processes, at a network's own sizes, that the kernels are right on this machine.

    python -m qwen3_mlx.metal.prove NAME... < SIGNATURES  (JSON, by `verdict.described`)

A GPU fault breaks MLX's stream for the whole process, and a kernel may hang: so the parent only
reads what its children print. A wrong number, a refused launch, a hang and a signal are results;
kernels that a child didn't reach are not proven.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen3_mlx.device.out_of_memory import is_out_of_memory
from qwen3_mlx.metal import awake, launch, tuning, verdict
from qwen3_mlx.metal.case import Arrays, Case
from qwen3_mlx.metal.cases import cases
from qwen3_mlx.metal.child_output import ChildOutput, spent
from qwen3_mlx.metal.comparison import BOUNDS, compare
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.proof_parts import cases_of, kernel_of, parts_of, rows_only, shares, together
from qwen3_mlx.metal.variants import Signature, text_digest
from qwen3_mlx.metal.verdict import Verdict

LIMIT_S, ROWS_LIMIT_S = 60.0, 180.0
NO_MEMORY = (71, -signal.SIGKILL)
"""Exit statuses of a child that had too little memory: its own, and the system's way to end it.
That is no fault of a kernel: it is tried again, like one that took too long."""

CHILD = [sys.executable, "-m", "qwen3_mlx.metal.prove"]
"""The command of a child. Tests without a GPU replace it by one that runs on the CPU."""


class Skipped(Exception):
    """The user skipped the proof, or the machine slept during it: there is no result."""


Meanwhile = Callable[[Collection[str]], bool]
"""Work that the parent does while its children run, one piece per call. Its argument: the digests
of the sources that were right so far. Returns whether there was a piece to do."""


def prove(
    signatures: Sequence[Signature],
    limit_s: float = LIMIT_S,
    skipped: Callable[[], bool] = lambda: False,
    meanwhile: Meanwhile = lambda _right: False,
    names: Sequence[str] = (),
    rows: bool = True,
) -> Verdict:
    """The verdict of child processes on the kernels of `signatures`; their failures don't raise.

    names: the kernels to try, with a cut as in ``matvec=8,2``; if empty, all of them, but those of
    several rows only with `rows`, because they may take minutes. limit_s: seconds per child, for
    kernels of several rows at least `ROWS_LIMIT_S`. Raises `Skipped` as soon as `skipped` returns
    True, and if the machine slept.
    """
    since = awake.now()
    parts = parts_of(names) if names else shares(signatures, rows)
    begin = since[1]
    given = json.dumps(verdict.described(signatures))
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as ended:
        folder = Path(place)
        (folder / "given").write_text(given)
        limits = [max(limit_s, ROWS_LIMIT_S) if rows_only(part) else limit_s for part in parts]
        said: list[ChildOutput] = []
        codes: list[int | None] = []

        def between() -> bool:
            if skipped():
                raise Skipped
            return meanwhile([text for one in said for text in one.texts()])

        for beside in together(list(zip(parts, limits, strict=True))):
            since_start, children = time.monotonic(), []
            for part, _ in beside:
                said.append(ChildOutput(folder, "-".join(part)[:99], time.time()))
                children.append(_start(folder, said[-1], part))
                ended.callback(_end, children[-1])
            for child, (_, limit) in zip(children, beside, strict=True):
                codes += _wait([child], since_start + limit, between)
        if awake.slept(since):
            raise Skipped
        found = Verdict(machine=verdict.machine(), day=datetime.date.today().isoformat())
        for one, code, limit, part in zip(said, codes, limits, parts, strict=True):
            _add(found, one, code, limit, part)
        found.seconds = {"right": round(time.monotonic() - begin, 1)} | spent(said)
    found.right = sorted(set(found.right) - set(found.wrong))
    return found


def _start(folder: Path, said: ChildOutput, kernels: list[str]) -> subprocess.Popen[bytes]:
    with (
        (folder / "given").open("rb") as given,
        said.out.open("wb") as out,
        said.err.open("wb") as err,
    ):
        # a new session: Ctrl-C reaches only the parent, which ends the child
        return subprocess.Popen(
            [*CHILD, *kernels], stdin=given, stdout=out, stderr=err, start_new_session=True
        )


def _wait(
    children: list[subprocess.Popen[bytes]], until: float, between: Callable[[], bool]
) -> list[int | None]:
    """The children's exit statuses; None for one that still runs at the time `until`."""
    while running := [child for child in children if child.poll() is None]:
        busy, left = between(), until - time.monotonic()
        if left <= 0:
            break
        if not busy:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[0].wait(min(0.1, left))
    return [child.poll() for child in children]


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)  # a process inside the driver may not end at once


def _add(
    found: Verdict, said: ChildOutput, code: int | None, limit_s: float, part: Sequence[str]
) -> None:
    """Add to `found` what the child that tries `part` has printed, and how it ended."""
    begun = None
    finished = False
    for value in said.lines():
        if "finished" in value:
            finished = True
        elif "fault" not in value:
            begun = value
        else:
            begun = None
            _take(found, str(value["kernel"]), value["fault"])
    if finished and code == 0:
        return
    before = set(found.wrong)
    why = _ending(code, said.err.read_text("utf-8", "replace").strip(), limit_s)
    several = rows_only(part)
    if begun or not several:
        kernel = str(begun["kernel"]) if begun else "step"
        _take(found, kernel, f"{begun['name']}: {why}" if begun else why)
    for unproven in part if several else ("step",):  # even if some of its cases were right
        _take(found, kernel_of(unproven), f"the proof did not come to its end: {why}")
    if code is None or code in NO_MEMORY:
        found.late |= dict.fromkeys(set(found.wrong) - before, 1)


def _take(found: Verdict, kernel: str, fault: str | None) -> None:
    if fault is None:
        found.right.append(kernel)
    else:
        found.wrong.setdefault(kernel, fault)


def _ending(code: int | None, complaint: str, limit_s: float) -> str:
    if code is None:
        return f"still running after {limit_s:.0f} s"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    last = complaint.splitlines()[-1][:120] if complaint else "no word said"
    return f"exit {code}: {last}"


def check(case: Case, got: Arrays) -> str | None:
    """What is wrong with `got`, a kernel's outputs for `case`, or None.

    A second run must give the same bits, the outputs must be near the reference, and NaN stay NaN.
    """
    want = case.reference(case.x)
    again, beside = case.run(case.x), case.stock(case.x)
    mx.eval(want, again, beside)
    for name, a, b in zip(("", " (second output)"), got, again, strict=False):
        if not mx.array_equal(_integers(a), _integers(b)).item():
            return f"{case.name}: not the same twice{name}"
    for out, true, other in zip(got, want, beside, strict=True):
        if fault := compare(out, true, other, case.roundings):
            return f"{case.name}: {fault}"
    return None if case.kernel == "step" else _not_finite(case)


def _integers(x: mx.array) -> mx.array:
    """The bits of `x` as integers, because NaN differs from itself."""
    return x.view({2: mx.uint16, 4: mx.uint32}[x.dtype.size])


def _not_finite(case: Case) -> str | None:
    """Why a kernel turns NaN inputs into numbers, which would hide other errors; None if not."""
    poisoned: Arrays = case.run(mx.full(case.x.shape, float("nan"), case.x.dtype))
    first, *others = [mx.isnan(out) for out in poisoned if out.dtype in BOUNDS]
    if first.all().item() and all(other.any().item() for other in others):
        return None
    return f"{case.name}: hides what is not a number"


def tried(case: Case) -> dict[str, Any]:
    """Run and `check` a case: its fault, the digests of its sources, and the seconds.

    An exception of the compiler or the driver is a fault too.
    """
    met: set[str] = set()
    run, begin = launch.executor, time.monotonic()
    compiled = begin

    def noted(given: Launch) -> list[mx.array]:
        met.add(text_digest(given))
        return run(given)

    try:
        with launch.executing_with(noted):
            got = case.run(case.x)
            mx.eval(got)
            compiled = time.monotonic()
            fault = check(case, got)
    except Exception as thrown:
        if is_out_of_memory(thrown):  # no fault of the kernel: the child ends, and is tried again
            raise
        first = (str(thrown).strip() or type(thrown).__name__).splitlines()[0]
        fault = f"{case.name}: {first[:160]}"
    seconds = {"compiled": compiled - begin, "compared": time.monotonic() - compiled}
    return {"fault": fault, "texts": sorted(met)} | {k: round(s, 3) for k, s in seconds.items()}


def report(signatures: Sequence[Signature], names: Collection[str]) -> Iterator[dict[str, Any]]:
    """What a child prints: a line before and a line after each case of the kernels in `names`."""
    mx.random.seed(0)
    for name in names:
        kernel, cuts = parsed_name(name)
        with tuning.cut_by(cuts):
            every = [case for one in signatures for case in cases(one) if case.kernel == kernel]
            left = list(reversed(cases_of(name, every)))
            del every
            while left:  # a case that was tried gives its memory back
                named = {"kernel": kernel_of(name), "name": left[-1].name}
                yield named
                yield named | tried(left.pop())
                mx.clear_cache()
    yield {"finished": True}


def parsed_name(name: str) -> tuple[str, tuning.Cuts]:
    """The kernel and the cut of ``matvec=8,2``; of ``matvec`` no cut."""
    kernel, _, cut = kernel_of(name).partition("=")
    rows, _, simds = cut.partition(",")
    return kernel, {kernel: (int(rows), int(simds))} if cut else {}


def main() -> None:
    """The child process: signatures on stdin, `names` as its arguments."""
    signatures = verdict.parsed(json.load(sys.stdin))
    try:
        for line in report(signatures, sys.argv[1:]):
            sys.stdout.write(json.dumps(line | {"at": time.time()}) + "\n")
            sys.stdout.flush()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"out of memory: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(NO_MEMORY[0])


if __name__ == "__main__":
    main()
