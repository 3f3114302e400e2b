"""Writes safetensors headers, and reads them with strict checks.

The format is huggingface/safetensors' README: 8 bytes of length, little-endian, then that
many bytes of JSON, then the tensors' bytes. Nothing here imports MLX or reads a tensor.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3_mlx.checkpoint import gguf_tensors
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.shares import is_share, several_machines_error
from qwen3_mlx.errors import CheckpointError, ConfigError, shown
from qwen3_mlx.files import LFS, LFS_POINTER, open_regular, read_json
from qwen3_mlx.gguf.folder import is_gguf
from qwen3_mlx.hub.weight_files import INDEX, WHOLE, WeightFiles, choose

MAX_HEADER = 100_000_000
"""Largest header in bytes, as in the reference implementation."""

MAX_AXES = 32
"""Most axes of a tensor: multiplying a million sizes would take minutes."""

ITEM_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}
_HINT = "the file is damaged or was not downloaded whole; fetch it again"


def header_bytes(
    tensors: Iterable[tuple[str, str, Sequence[int], int]],
    metadata: Mapping[str, str],
    align: int = 8,
) -> bytes:
    """The length field and header for tensors in this order: (name, dtype, shape, bytes).

    Spaces pad both to a multiple of `align` bytes. The safetensors package could write only files
    whose tensors are all in memory.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape, nbytes in tensors:
        span = [end, end + nbytes]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": span}
        end += nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text


def checkpoint_tensors(directory: str | Path) -> dict[str, TensorInfo]:
    """All tensors of the checkpoint in `directory`, single or sharded, by name.

    For a GGUF model, the tensors that the loader makes.

    Raises `CheckpointError` if there are none, a shard is missing, the index points outside the
    directory, a name occurs twice, a header is damaged, or it is split among machines.
    """
    tensors: dict[str, TensorInfo] = {}
    files = shard_files(Path(directory))
    if is_gguf(files[0]):
        return gguf_tensors.loaded_tensors(files)
    if is_share(files[0].name):
        raise several_machines_error([file.name for file in files])
    for file in files:
        for name, info in read_header(file).items():
            if name in tensors:
                where = f"{tensors[name].file.name} and {file.name}"
                raise CheckpointError(f"tensor {name} stands twice", got=where)
            tensors[name] = info
    return tensors


def weight_files(directory: Path) -> WeightFiles:
    """The checkpoint's weight files in `directory`, the missing and the ignored ones.

    Raises `CheckpointError` if the index is unreadable or points outside the directory.
    """
    index = directory / INDEX
    indexed: list[str] | None = None
    try:
        present = [entry.name for entry in directory.iterdir() if entry.is_file()]
    except OSError:
        present = []
    if WHOLE in present and index.exists() and _is_stale(index):
        indexed = []
    elif index.exists():
        indexed = []
        for name in _weight_map(index).values():
            if not _is_plain(name):
                raise CheckpointError(
                    f"{index.name} points outside the directory",
                    got=shown(name),
                    expected="plain file names",
                )
            indexed.append(name)
    return choose(present, indexed)


def _is_stale(index: Path) -> bool:
    """Whether the index beside ``model.safetensors`` names other files or is unreadable."""
    try:
        return WHOLE not in _weight_map(index).values()
    except CheckpointError:
        return True


def shard_files(directory: Path) -> list[Path]:
    """The weight files of a checkpoint. Raises `CheckpointError` if one is missing."""
    files = weight_files(directory)
    if not files.names:
        hint = "a model directory has model.safetensors, or shards and their index"
        if files.passed_over:
            hint = f"passed over: {', '.join(files.passed_over[:3])}"
        if lost := _dead_links(directory):
            hint = f"links to files that are gone: {', '.join(lost[:3])}: fetch the model again"
        raise CheckpointError("no safetensors files", got=f"directory {directory}", hint=hint)
    if files.missing:
        count = f"{len(files.missing)} of {len(files.names)} missing"
        got = f"{count}: {', '.join(files.missing[:5])}"
        raise CheckpointError("shards are missing", got=got, hint="fetch the model again")
    return [directory / name for name in files.names]


def _dead_links(directory: Path) -> list[str]:
    """The weight files in `directory` that are links, and lead nowhere or to themselves."""
    found = directory.glob("*.safetensors")
    return sorted(file.name for file in found if file.is_symlink() and not file.exists())


def _is_plain(name: Any) -> bool:
    """Whether `name` is a single path component. It may be a link, as in the hub's cache."""
    if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
        return False
    try:
        return len(os.fsencode(name)) <= 255 and "\0" not in name
    except UnicodeEncodeError:  # a lone surrogate, which no file name can contain
        return False


def _weight_map(index: Path) -> dict[str, Any]:
    try:
        weight_map = read_json(index)["weight_map"]
    except ConfigError as error:
        what = f"{index.name} can't be read"
        raise CheckpointError(what, got=error.got, hint=error.hint) from None
    except KeyError:
        what = f"{index.name} can't be read"
        raise CheckpointError(what, got="no weight_map", hint=_HINT) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} names no tensors", got=shown(weight_map), hint=_HINT)
    return weight_map


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file. Raises `CheckpointError` for any inconsistency."""
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            first = stream.read(8)
            if first == LFS_POINTER[:8]:
                raise CheckpointError(f"{file.name} was not downloaded", **LFS)
            length = int.from_bytes(first, "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                got = f"a header of {length} bytes in a file of {size}"
                raise CheckpointError(f"{file.name} is no safetensors file", got=got, hint=_HINT)
            header = json.loads(stream.read(length).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file.name} has no readable header", got=got, hint=_HINT) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file.name} has no readable header", got=type(header).__name__)
    metadata = header.pop("__metadata__", None) or {}  # MLX writes null
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        what = f"{file.name}: __metadata__"
        raise CheckpointError(what, got=shown(metadata)[:200], expected="texts by name", hint=_HINT)
    spans = {name: _span(file, name, entry) for name, entry in header.items()}
    _check_layout(file, [span[:2] for span in spans.values()], size - 8 - length)
    return {
        name: TensorInfo(name, dtype, shape, end - start, file, 8 + length + start)
        for name, (start, end, dtype, shape) in spans.items()
    }


def _span(file: Path, name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """A tensor's start, end, dtype and shape, after checking that they agree."""
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        start, end = entry["data_offsets"]
        whole = len(shape) <= MAX_AXES and all(
            type(n) is int and 0 <= n < 2**63 for n in (*shape, start, end)
        )
        bits = math.prod(shape) * ITEM_BITS[dtype] if whole else -1
    except (KeyError, TypeError, ValueError):
        whole, bits, start, end, dtype, shape = False, -1, 0, 0, "", ()
    if not whole or bits != 8 * (end - start):
        raise CheckpointError(
            f"{file.name}: tensor {name}",
            got=json.dumps(entry)[:200],
            expected="a known dtype, and offsets that span the shape exactly",
            hint=_HINT,
        )
    return start, end, dtype, shape


def _check_layout(file: Path, spans: list[tuple[int, int]], data: int) -> None:
    """Raise unless the tensors are contiguous and end at the end of the file."""
    position = 0
    for start, end in sorted(spans):
        if start != position:
            what = f"{file.name}: tensors {'overlap' if start < position else 'leave a gap'}"
            raise CheckpointError(what, got=f"one begins at byte {start}", expected=f"{position}")
        position = end
    if position != data:
        what = f"{file.name} is {'cut short' if position > data else 'too long'}"
        raise CheckpointError(
            what, got=f"{data} bytes of tensors", expected=f"{position}", hint=_HINT
        )
