"""Are the kernels right on this machine? Tried in a process of its own, at a network's own sizes.

    python -m qwen3_mlx.metal.prove < SIGNATURES      (JSON, as `verdict.described` writes them)

A GPU fault poisons MLX's stream for its whole process, and a kernel may hang: so the parent only
reads what its child has printed. A wrong number, a refused launch, a hang and a signal are answers,
and whatever was not reached is not proven.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.metal import verdict
from qwen3_mlx.metal.cases import Arrays, Case, cases
from qwen3_mlx.metal.variants import Signature
from qwen3_mlx.metal.verdict import Verdict

BOUNDS = {mx.float32: 1e-11, mx.float16: 2e-7, mx.bfloat16: 1e-5}
"""Of the normalised squared error: four times what one rounding to the dtype costs."""

LIMIT_S = 60.0
CHILD = [sys.executable, "-m", "qwen3_mlx.metal.prove"]
"""What the parent starts. Tests without a GPU put one in its place that runs on the CPU."""


class Skipped(Exception):
    """The user did not want to wait: nothing was found out."""


def prove(
    signatures: Sequence[Signature],
    limit_s: float = LIMIT_S,
    skipped: Callable[[], bool] = lambda: False,
) -> Verdict:
    """What a child finds out about the kernels of `signatures`; never raises for what it does.

    Raises `Skipped` as soon as `skipped` says so.
    """
    begin, parts = time.monotonic(), _processes()
    given = json.dumps(verdict.described(signatures))
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as ended:
        folder = Path(place)
        (folder / "given").write_text(given)
        children = [_start(folder, part, parts) for part in range(parts)]
        for child in children:
            ended.callback(_end, child)
        codes = [_wait(child, begin + limit_s, skipped) for child in children]
        found = Verdict(machine=verdict.machine(), day=datetime.date.today().isoformat())
        for part, code in enumerate(codes):
            said = (folder / f"{part}.out").read_text("utf-8", "replace").splitlines()
            complaint = (folder / f"{part}.err").read_text("utf-8", "replace").strip()
            _add(found, said, code, complaint, limit_s)
    found.right = sorted(set(found.right) - set(found.wrong))
    found.seconds["right"] = round(time.monotonic() - begin, 1)
    return found


def _processes() -> int:
    """CUDA's compiler takes two seconds a kernel: there several processes share the cases."""
    return max(1, min(8, (os.cpu_count() or 1) // 2)) if backend.device() == "cuda" else 1


def _start(folder: Path, part: int, parts: int) -> subprocess.Popen[bytes]:
    with (
        (folder / "given").open("rb") as given,
        (folder / f"{part}.out").open("wb") as out,
        (folder / f"{part}.err").open("wb") as err,
    ):
        # a session of its own: Ctrl-C is for the parent, who ends it
        return subprocess.Popen(
            [*CHILD, str(part), str(parts)], stdin=given, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip


def _wait(child: subprocess.Popen[bytes], until: float, skipped: Callable[[], bool]) -> int | None:
    """Its exit status; None if it was still running when its time was over."""
    while True:
        left = until - time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(min(0.1, max(left, 0.0)))
        if skipped():
            raise Skipped
        if left <= 0:
            return None


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)  # a process in the driver's hands may not end at once


def _add(found: Verdict, said: list[str], code: int | None, complaint: str, limit_s: float) -> None:
    """What a child printed: a line when a case begins, and one when it ends."""
    begun = None
    finished = False
    for line in said:
        try:
            value = json.loads(line)
        except ValueError:
            continue  # a line cut short, or a library's
        if not isinstance(value, dict):
            continue
        if "finished" in value:
            finished = True
        elif "fault" not in value:
            begun = value
        else:
            begun = None
            _take(found, str(value["kernel"]), value["fault"])
    if finished and code == 0:
        return
    why = _ending(code, complaint, limit_s)
    kernel = str(begun["kernel"]) if begun else "step"
    _take(found, kernel, f"{begun['name']}: {why}" if begun else why)
    _take(found, "step", f"the proof did not come to its end: {why}")


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


def check(case: Case) -> str | None:
    """What is wrong with a kernel in `case`, or None."""
    got, want = case.run(case.x), case.reference(case.x)
    again, beside = case.run(case.x), case.stock(case.x)
    mx.eval(got, want, again, beside)
    for name, a, b in zip(("", " (second output)"), got, again, strict=False):
        if not mx.array_equal(_integers(a), _integers(b)).item():
            return f"{case.name}: not the same twice{name}"
    for out, true, other in zip(got, want, beside, strict=True):
        if fault := compare(out, true, other, case.roundings):
            return f"{case.name}: {fault}"
    return None if case.kernel == "step" else _not_finite(case)


def _integers(x: mx.array) -> mx.array:
    """Its bits: NaN would differ from itself."""
    return x.view({2: mx.uint16, 4: mx.uint32}[x.dtype.size])


def compare(got: mx.array, want: mx.array, stock: mx.array, roundings: int = 1) -> str | None:
    """Whether `got` is as near to the float32 `want` as its dtype allows, and MLX's own `stock` is.

    The second bound is twice stock's error; not below one rounding, which stock may be lucky with.
    """
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    if got.dtype not in BOUNDS:
        return None if bool(mx.array_equal(got, want).item()) else "other numbers"
    bound = BOUNDS[got.dtype] * roundings
    mine, theirs = error(got, want), error(stock, want)
    most = min(bound, 2 * max(theirs, bound / 4)) if theirs == theirs else bound
    if mine <= most:  # NaN never is
        return None
    return f"squared error {mine:.1e}, expected at most {most:.1e} (MLX's own: {theirs:.1e})"


def error(got: mx.array, want: mx.array) -> float:
    """``Σ (got - want)² / Σ want²`` in float32; 0 where all is zero."""
    got, want = got.astype(mx.float32), want.astype(mx.float32)
    above, below = mx.square(got - want).sum().item(), mx.square(want).sum().item()
    assert isinstance(above, float) and isinstance(below, float)
    return above / below if below else (0.0 if above == 0 else float("nan"))


def _not_finite(case: Case) -> str | None:
    """NaN in, NaN out: an error elsewhere must stay visible."""
    poisoned: Arrays = case.run(mx.full(case.x.shape, float("nan"), case.x.dtype))
    first, *others = [mx.isnan(out) for out in poisoned if out.dtype in BOUNDS]
    if first.all().item() and all(other.any().item() for other in others):
        return None
    return f"{case.name}: hides what is not a number"


def tried(case: Case) -> str | None:
    """`check`, and whatever the compiler or the driver throws."""
    try:
        return check(case)
    except Exception as thrown:
        first = (str(thrown).strip() or type(thrown).__name__).splitlines()[0]
        return f"{case.name}: {first[:160]}"


def report(
    signatures: Sequence[Signature], part: int = 0, parts: int = 1
) -> Iterator[dict[str, Any]]:
    """What the child prints: a line before each case of its part, and one behind it."""
    every = (case for one in signatures for case in cases(one))
    mx.random.seed(0)
    for index, case in enumerate(every):
        if index % parts == part:
            named = {"kernel": case.kernel, "name": case.name}
            yield named
            yield named | {"fault": tried(case)}
            mx.clear_cache()
    yield {"finished": True}


def main() -> None:
    """The child."""
    part, parts = map(int, sys.argv[1:] or ("0", "1"))
    signatures = verdict.parsed(json.load(sys.stdin))
    for line in report(signatures, part, parts):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
