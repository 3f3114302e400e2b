"""Writes a checkpoint in ``OUT.part``: shards, small files, and config.json last.

``OUT.part`` is renamed to ``OUT`` when everything, including measurements and card, is there. A
killed conversion resumes from its journal. An existing ``OUT`` is unchanged until the rename.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

from qwen3_mlx.errors import CheckpointError, OptionError
from qwen3_mlx.files import held, read_small
from qwen3_mlx.quantize.checkpoint_entries import CONFIG, record_of
from qwen3_mlx.quantize.digests import DigestCheck, changed_since
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.journal import ConversionJournal, check_directory
from qwen3_mlx.quantize.pack import bounded_cache
from qwen3_mlx.quantize.plan import INDEX, Plan, Shard, as_json
from qwen3_mlx.quantize.room import check_space, check_writable
from qwen3_mlx.quantize.shard_writer import write_shard
from qwen3_mlx.quantize.source_pass import SourcePass
from qwen3_mlx.quantize.target_check import (
    RECORD,
    check_apart,
    check_file,
    check_in_the_way,
    check_place,
    check_replaceable,
)

_CACHE = 256 * 2**20

Progress = Callable[[int, int], None]
"""Called with (bytes of the source done, total bytes)."""


@dataclass(slots=True)
class _Leave:
    """What the last check allowed."""

    force: bool = False


@dataclass(frozen=True)
class Target:
    """A conversion's output directory and its auxiliary files."""

    out: Path
    key: str
    disk: Disk = field(default_factory=Disk)
    leave: _Leave = field(default_factory=_Leave, compare=False, repr=False)
    source: str = ""
    """The source's fingerprint when the conversion was planned."""

    @property
    def part(self) -> Path:
        """The directory in which the result is written."""
        return self.out.with_name(f"{self.out.name}.part")

    @property
    def journal(self) -> Path:
        """The journal of finished shards."""
        return self.out.with_name(f"{self.out.name}.journal")

    @property
    def states(self) -> Path:
        """The saved state of the source's forward pass."""
        return self.out.with_name(f"{self.out.name}.states.safetensors")

    @property
    def replaced(self) -> Path:
        """The old result's name while the new one is moved into place."""
        return self.out.with_name(f"{self.out.name}.replaced")

    @property
    def is_unfinished(self) -> bool:
        """Whether files of an unfinished conversion are left."""
        return self.journal.exists() or self.replaced.exists()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the target for this conversion; makes its parent directory.

        Raises `OptionError` if another process holds it, `CheckpointError` if it can't be created.
        """
        check_writable(self.out)
        with ExitStack() as stack:
            try:
                self.disk.make_directory(self.out.parent)
                stack.enter_context(held(self.out.with_name(f".{self.out.name}.lock")))
            except BlockingIOError:
                hint = "wait until it has finished, or choose another --out"
                got = str(self.out)
                raise OptionError("another conversion has the target", got=got, hint=hint) from None
            except OSError as error:
                raise full_disk(error, self) from error
            yield

    def record(self) -> dict[str, Any] | None:
        """The record in ``OUT`` if it is of this same conversion, else None."""
        record = record_of(self.out)
        return record if record.get("key") == self.key else None

    def check(self, source: Path, force: bool) -> None:
        """Raise `OptionError` if ``OUT``, or a file beside it, must not be written or removed."""
        self.check_apart(source, "the source")
        check_place(self.out)
        self._check_beside(force)
        self.leave.force = force
        if self.record() is None:
            check_replaceable(self.out, force)

    def check_apart(self, folder: Path, what: str) -> None:
        """Raise `OptionError` if a conversion to here would touch `folder`, called `what`."""
        others = (f"{self.out.name}.{end}" for end in ("part", "replaced", "dwq", "awq"))
        check_apart(folder, self.out, *map(self.out.with_name, others), what=what)

    def journal_key(self) -> str | None:
        """The key of the conversion that the journal is of, or None."""
        try:
            line = json.loads(read_small(self.journal).split(b"\n")[0])
        except (OSError, ValueError, RecursionError):
            return None
        return str(line["key"]) if isinstance(line, dict) and "key" in line else None

    def _check_beside(self, force: bool) -> None:
        """Raise `OptionError` if a name beside ``OUT`` is taken by something of the user's."""
        known = self.journal_key() is not None or self.record() is not None
        check_in_the_way(self.replaced, known=known, force=force)
        check_file(self.journal, b'{"key"')
        check_file(self.states, b'"layers"')


def target_of(plan: Plan, out: Path, disk: Disk | None = None) -> Target:
    """The target of a plan; its key identifies source, recipe and layout."""
    parts = (plan.source.fingerprint(), plan.digest())
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return Target(out, key, disk or Disk(), source=parts[0])


def check_room(plan: Plan, target: Target, extra_bytes: int = 0) -> None:
    """Raise `CheckpointError` if the result can't be written to its place, or is too large.

    `extra_bytes` of disk are needed besides the result's.
    """
    check_writable(target.out)
    check_space(target.disk, target.out, target.part, extra_bytes + sum(plan.files().values()))


def write_checkpoint(
    plan: Plan,
    target: Target,
    on_progress: Progress | None = None,
    beside: SourcePass | None = None,
    extra_bytes: int = 0,
) -> Path:
    """Write the whole checkpoint into ``OUT.part``; returns that directory, loadable.

    `beside` follows what is written. `extra_bytes` of disk are needed besides the result's.

    Raises `CheckpointError`, for a full disk or a damaged source. What was done is kept, except
    if the source's digest was wrong, or the source has changed.
    """
    disk, part = target.disk, target.part
    check_directory(part, target.journal)
    try:
        check_room(plan, target, extra_bytes)
        journal = ConversionJournal.open(disk, target.journal, part, target.key)
        done = {shard.name for shard in plan.shards if journal.holds(shard.name, shard.nbytes)}
        with DigestCheck(plan.source) as digest_check, bounded_cache(_CACHE):
            _write_shards(plan, journal, done, on_progress, beside)
            if error := digest_check.error() or changed_since(plan.source, target.source):
                disk.remove(part)
                disk.remove(target.journal)
                raise error
        _write_small_files(plan, target)
    except OSError as error:
        raise full_disk(error, target) from error
    return part


def finish(target: Target, files: dict[str, bytes]) -> None:
    """Add `files` (card and record), and rename ``OUT.part`` to ``OUT``.

    Raises `CheckpointError`; `OptionError` if ``OUT`` has come, or has been given other files,
    since the check, and a second run finishes once they are moved away.
    """
    disk, part = target.disk, target.part
    try:
        for name, data in files.items():
            disk.write_file(part / name, data)
        if target.out.exists():
            check_replaceable(target.out, target.leave.force)
            remove_checkpoint(disk, target.replaced)
            disk.rename(target.out, target.replaced)
        disk.rename(part, target.out)
        clean(target)
    except OSError as error:
        raise full_disk(error, target) from error


def clean(target: Target) -> None:
    """Remove the files that only an unfinished conversion needs."""
    remove_checkpoint(target.disk, target.replaced)
    # The journal goes last: while it is there, a half removed directory is known to be ours.
    for path in (target.states, target.journal):
        if path.exists():
            target.disk.remove(path)


def remove_checkpoint(disk: Disk, directory: Path) -> None:
    """Remove `directory` if it exists; what tells that it is a checkpoint goes last."""
    if not directory.exists():
        return
    for entry in sorted(directory.iterdir()):
        if entry.name not in (CONFIG, RECORD):
            disk.remove(entry)
    for name in (CONFIG, RECORD):
        disk.remove(directory / name)
    disk.remove(directory)


def full_disk(error: OSError, target: Target) -> CheckpointError:
    """The `CheckpointError` for an error of writing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"free some space and run the same command again: it goes on from {target.part}"
        return CheckpointError("the disk is full", got=str(target.out.parent), hint=hint)
    where, got = error.filename or target.out, error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        got = "a file where a directory must be"
    hint = "name a place for the result that can be written"
    return CheckpointError(f"{where} can't be written", got=got, hint=hint)


def _write_shards(
    plan: Plan,
    journal: ConversionJournal,
    done: set[str],
    on_progress: Progress | None,
    beside: SourcePass | None,
) -> None:
    total, count = plan.source.nbytes, 0

    def forward(nbytes: int) -> None:
        nonlocal count
        count += nbytes
        if on_progress is not None:
            on_progress(count, total)

    def written(path: str) -> None:
        if beside is not None:
            beside.written(path)

    for shard in plan.shards:
        if shard.name in done:
            forward(_source_bytes(shard))
            for item in (*shard.paged, *shard.rest):
                written(item.weight.path)
            continue
        digest = write_shard(journal.disk, journal.directory, shard, plan.dtype, forward, written)
        if beside is not None:
            beside.save()
        journal.add(shard.name, digest)


def _source_bytes(shard: Shard) -> int:
    return sum(item.weight.nbytes for item in (*shard.paged, *shard.rest))


def _write_small_files(plan: Plan, target: Target) -> None:
    part = target.part
    target.disk.write_file(part / INDEX, as_json(plan.index()))
    for file in plan.copied():
        target.disk.write_file(part / file.name, read_small(file))
    # Last: without config.json the directory isn't recognised as a model.
    target.disk.write_file(part / "config.json", as_json(plan.config()))
