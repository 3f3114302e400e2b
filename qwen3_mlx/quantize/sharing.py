"""Splits a checkpoint into one file per machine, so each machine stores only its own.

The files have the bytes that a machine would read of the whole checkpoint, under its names. At most
one tensor is in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import qwen3_mlx.device.backend  # noqa: F401

from qwen3_mlx.checkpoint.fingerprint import digest_of_file
from qwen3_mlx.checkpoint.headers import checkpoint_tensors, header_bytes, read_header
from qwen3_mlx.checkpoint.match import named_tensors, with_head_or_without
from qwen3_mlx.checkpoint.shared import read_part, share_sources
from qwen3_mlx.checkpoint.sources import sources_of
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.checkpoint.unread import unread_network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import Share
from qwen3_mlx.config.shares import KEY, Shares
from qwen3_mlx.errors import CheckpointError, OptionError, gb
from qwen3_mlx.files import open_regular, read_config, read_small
from qwen3_mlx.group.versions import digest
from qwen3_mlx.quantize.checkpoint_entries import CONFIG, entries_of, final_name
from qwen3_mlx.quantize.journal import DIGESTS
from qwen3_mlx.quantize.pack import bytes_of
from qwen3_mlx.quantize.plan import COPIED, PAGE, as_json
from qwen3_mlx.quantize.room import MARGIN
from qwen3_mlx.quantize.staging import Target, finish, full_disk
from qwen3_mlx.quantize.target_check import RECORD

Progress = Callable[[int, int], None]
"""Called with (bytes written, total bytes)."""
BLOCK = 1 << 24
"""Bytes copied at a time."""


@dataclass(frozen=True, slots=True)
class OwnTensor:
    """A tensor of a machine's file, and the tensors of the whole checkpoint that it comes from."""

    name: str
    infos: tuple[TensorInfo, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; separately stored experts are stacked."""
        first = self.infos[0].shape
        return first if len(self.infos) == 1 else (len(self.infos), *first)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return sum(info.nbytes for info in self.infos)

    @property
    def place(self) -> tuple[bool, int]:
        """The sort key for a file's order: whole pages first, as in conversions."""
        even = self.nbytes & -self.nbytes
        return self.nbytes % PAGE != 0, -even


def own_tensors(source: Path, share: Share) -> list[OwnTensor]:
    """The tensors of machine `share` of the checkpoint `source`, in the file's order.

    Raises `OptionError` if the parts would not be equal, `ConfigError` or `CheckpointError`.
    """
    tensors = named_tensors(checkpoint_tensors(source))
    unread_network(source, None, share)  # accounts for every tensor
    config = with_head_or_without(Qwen3Config.from_dir(source), tensors, source)
    sources = sources_of(tensors, config)
    own = share_sources(sources, share, config)
    names = share.names(config, sources)
    found = [OwnTensor(name, tuple(own[there])) for name, there in names.items()]
    return sorted(found, key=lambda tensor: tensor.place)


def key_of(whole: str, share: Share) -> str:
    """A key of the split checkpoint; `whole` is that of the whole one."""
    text = f"{whole} {share.size} {share.way}"
    return hashlib.sha256(text.encode()).hexdigest()


def check_part(target: Target, count: int) -> None:
    """Raise `OptionError` if ``OUT.part`` is no unfinished one of `count` machines."""
    part, shares = target.part, Shares("", "", ((0, ""),) * count)
    own = {*COPIED, "README.md", CONFIG, RECORD, *map(shares.name, range(count))}
    try:
        entries = entries_of(part) if part.exists() else []
    except OSError:  # no directory, or unreadable
        entries = [part]
    if part.is_symlink() or any(
        not entry.is_file() or final_name(entry.name) not in own for entry in entries
    ):
        hint = "move it away: the shares are written there before it takes its own name"
        raise OptionError("a directory is in the way", got=str(part), hint=hint)


def share_out(
    source: Path,
    target: Target,
    share: Share,
    record: dict[str, Any],
    on_progress: Progress | None = None,
) -> Shares:
    """Write the files of `share.size` machines, and the small files, to ``target.out``.

    The rank of `share` is ignored. Complete files of an interrupted run are reused. record: for
    conversion.json. Raises `CheckpointError`, also for a full disk, or as `check_part` and
    `own_tensors`.
    """
    check_part(target, share.size)
    ranks = [replace(share, rank=rank) for rank in range(share.size)]
    plans = [own_tensors(source, one) for one in ranks]
    of, part = digest(source), target.part
    shares = Shares(share.way, of, ((0, ""),) * share.size)
    files: list[tuple[int, str]] = []
    try:
        target.disk.make_directory(part)
        progress = _Progress(sum(t.nbytes for plan in plans for t in plan), on_progress)
        for rank, plan in enumerate(plans):
            file, header = part / shares.name(rank), _header(plan, shares, rank)
            if not _is_whole(file, header, plan):
                _require_space(target, len(header) + sum(t.nbytes for t in plan))
                _write(target, file, header, plan, progress)
            files.append((file.stat().st_size, digest_of_file(file)))
        shares = replace(shares, files=tuple(files))
        _write_small_files(source, target, shares)
    except OSError as error:
        raise full_disk(error, target) from error
    about = {key: value for key, value in record.items() if key != DIGESTS}  # of other files
    finish(target, {RECORD: as_json(about | {"key": target.key, KEY: shares.block()})})
    return shares


class _Progress:
    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.total, self.on_progress, self.done = total, on_progress, 0

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)


def _header(plan: list[OwnTensor], shares: Shares, rank: int) -> bytes:
    entries = ((t.name, t.infos[0].dtype, t.shape, t.nbytes) for t in plan)
    metadata = {"format": "mlx", "share": f"{rank + 1} of {shares.description}", "of": shares.of}
    return header_bytes(entries, metadata, align=PAGE)


def _is_whole(file: Path, header: bytes, plan: list[OwnTensor]) -> bool:
    """Whether an earlier run has completed the file, which gets its name only when synced."""
    if not file.is_file() or file.stat().st_size != len(header) + sum(t.nbytes for t in plan):
        return False
    with open_regular(file) as stream:
        return stream.read(len(header)) == header


def _require_space(target: Target, nbytes: int) -> None:
    free = target.disk.free_bytes(target.part)
    if free < nbytes + MARGIN:
        raise CheckpointError(
            "not enough space on the disk",
            got=f"{gb(free, 2)} free at {target.out.parent}",
            expected=f"{gb(nbytes + MARGIN, 2)} for the next file",
            hint="free some space and run the same command again: it goes on",
        )


def _write(
    target: Target, file: Path, header: bytes, plan: list[OwnTensor], progress: _Progress
) -> None:
    disk, unfinished = target.disk, file.with_name(f".{file.name}.part")
    with disk.create(unfinished) as stream:
        disk.write(stream, header)
        for tensor in plan:
            for info in tensor.infos:
                for data in _bytes(info):
                    disk.write(stream, data)
                    progress.add(len(data))
        disk.sync(stream)
    read_header(unfinished)  # raises if it doesn't match the file
    disk.rename(unfinished, file)


def _bytes(info: TensorInfo) -> Iterator[memoryview | bytes]:
    """The bytes of a tensor, or of its part for the machine."""
    if info.part is not None:
        yield bytes_of(read_part(info))
        return
    with open_regular(info.file) as stream:
        stream.seek(info.offset)
        left = info.nbytes
        while left:
            yield _block(stream, min(BLOCK, left), info)
            left -= min(BLOCK, left)


def _block(stream: IO[bytes], size: int, info: TensorInfo) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise CheckpointError(f"{info.file.name} is cut short", got=info.name)
    return data


def _write_small_files(source: Path, target: Target, shares: Shares) -> None:
    disk, part = target.disk, target.part
    for name in (*COPIED, "README.md"):
        if (source / name).is_file():
            disk.write_file(part / name, read_small(source / name))
    values = read_config(source) | {KEY: shares.block()}
    # Last: without config.json the directory isn't recognised as a model.
    disk.write_file(part / "config.json", as_json(values))
