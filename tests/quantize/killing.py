"""Kills conversions at chosen points, for test_kill: run as a program, away from pytest.

Each conversion runs in a forked child that dies by SIGKILL at the n-th step it takes on the disk
(every write, half of every write, fsync, rename, create, mkdir, remove), so nothing can clean up
behind it. This process only imports MLX and never computes, because forking a working MLX is not
safe. It imports what a conversion does, or each child would.

Prints one JSON object: steps, points, and what went wrong at which.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from qwen3_mlx.quantize import pack
from qwen3_mlx.quantize.disk import Disk
from tests.quantize.build import all_bytes
from tests.quantize.conftest import convert

SHARD_BYTES = 60_000


class Killer(Disk):
    """Counts steps, and dies at the n-th; `kept` is where the count goes if it doesn't."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def step(self) -> bool:
        self.steps += 1
        return self.steps == self.at

    @contextmanager
    def around(self) -> Iterator[None]:
        if self.step():
            die()
        yield
        if self.step():
            die()

    def make_directory(self, path: Path) -> None:
        with self.around():
            super().make_directory(path)

    def create(self, path: Path, *, append: bool = False) -> IO[bytes]:
        stream = super().create(path, append=append)
        if self.step():
            die()
        return stream

    def write(self, stream: IO[bytes], data: memoryview | bytes) -> None:
        view = memoryview(data).cast("B")
        if self.step():
            die()
        if self.step():
            super().write(stream, view[: random.Random(self.at).randrange(len(view) + 1)])
            die()
        super().write(stream, view)

    def sync(self, stream: IO[bytes]) -> None:
        with self.around():
            super().sync(stream)

    def rename(self, source: Path, target: Path) -> None:
        with self.around():
            super().rename(source, target)

    def remove(self, path: Path) -> None:
        with self.around():
            if path.is_dir():  # a directory goes file by file, so it can be half gone
                for file in sorted(path.iterdir()):
                    file.unlink()
                    if self.step():
                        die()
            super().remove(path)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], int]) -> int:
    """Run `work` in a forked child; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def once(source: Path, out: Path, disk: Disk, *, force: bool) -> int:
    pack.BLOCK = 128 * 128
    convert(source, out, disk=disk, shard_bytes=SHARD_BYTES, force=force)
    return 0


def faults(out: Path, want: dict[str, bytes], old: dict[str, bytes] | None) -> Iterator[str]:
    """What a killed conversion must never leave behind."""
    if out.exists() and all_bytes(out) not in (want, old):
        yield "a half result under the final name"
    part = out.with_name(f"{out.name}.part")
    found = all_bytes(part) if part.exists() else {}
    for name, data in found.items():
        if name.startswith("."):
            continue
        if data != want[name]:
            yield f"a half {name} under its final name"
    if "config.json" in found and not set(want) - {"README.md", "conversion.json"} <= set(found):
        yield "config.json came before the rest"
    if old is not None and not out.exists():
        kept = out.with_name(f"{out.name}.replaced")
        if not kept.exists() or all_bytes(kept) != old:
            yield "the old result is lost"


def main(source: Path, work: Path, points: int) -> dict[str, object]:
    """Kill at `points` steps, half of them while replacing an old result."""
    reference, counter = work / "m", work / "steps"

    def count() -> int:
        disk = Killer(0)
        once(source, reference, disk, force=True)
        counter.write_text(json.dumps([disk.steps, *sys.modules]))
        return 0

    assert in_child(count) == 0
    steps, *modules = json.loads(counter.read_text())
    for name in modules[modules.index("qwen3_mlx") :]:
        importlib.import_module(name)
    want = all_bytes(reference)
    every = list(range(1, steps + 1))
    chosen = sorted(random.Random(0).sample(every, points)) if points < steps else every
    problems: list[str] = []
    killed = 0
    for number, at in enumerate(chosen):
        home = work / f"k{at}"
        home.mkdir()
        out, old = home / "m", None
        if number % 2:
            old = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": b"old"}
            out.mkdir()
            for name, data in old.items():
                (out / name).write_bytes(data)
        force = old is not None
        code = in_child(lambda o=out, a=at, f=force: once(source, o, Killer(a), force=f))
        killed += code == -signal.SIGKILL
        problems += [f"step {at}: {fault}" for fault in faults(out, want, old)]
        code = in_child(lambda o=out, f=force: once(source, o, Disk(), force=f))
        if code != 0:
            problems.append(f"step {at}: did not resume, exit code {code}")
        elif all_bytes(out) != want:
            problems.append(f"step {at}: resumed to other bytes")
        if sorted(path.name for path in home.iterdir()) != ["m"]:
            problems.append(f"step {at}: left {[path.name for path in home.iterdir()]}")
        shutil.rmtree(home)
    return {"steps": steps, "points": len(chosen), "killed": killed, "problems": problems}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
