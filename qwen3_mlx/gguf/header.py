"""Reads a GGUF file's header, metadata and tensor positions, with strict checks.

The format is ggml/docs/gguf.md, versions 2 and 3, little-endian. The gguf package trusts lengths,
and takes ten seconds for Qwen3's header because it maps each of 300,000 strings; this code takes
half a second. Nothing here imports MLX.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import CheckpointError, shown
from qwen3_mlx.files import LFS, LFS_POINTER, open_regular

MAGIC = b"GGUF"
MAX_HEADER = 2**25
"""Largest header in bytes; Qwen3's has 6 MB. A parsed list takes 36 bytes per small number."""
_FIRST = 2**24
_MAX_COUNT = 2**20
"""Most metadata entries, and most tensors."""
_HINT = "the file is damaged or was not downloaded whole; fetch it again"

BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
}
"""The supported types: weights per block, and bytes per block."""
_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _TEXT, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor: llama.cpp's name, block type, shape ``[..., columns]``, and place in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of one file."""

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


class TooShort(Exception):
    """The header is longer than the available bytes."""


def read_file(file: Path) -> GgufFile:
    """The header of a GGUF file. Raises `CheckpointError` for any inconsistency."""
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(_FIRST)
            while True:
                try:
                    return parse(data, size, file)
                except TooShort:
                    if len(data) >= min(size, MAX_HEADER):
                        got = f"a header that goes on behind {len(data)} bytes"
                        raise _damaged(file, got) from None
                    data += stream.read(len(data))
    except OSError as error:
        got = error.strerror or str(error)
        raise CheckpointError(f"{file.name} can't be read", got=got) from None


def parse(data: bytes, size: int, file: Path) -> GgufFile:
    """The header that begins `data`, the first bytes of a file of `size`.

    Raises `TooShort` if it needs more bytes, `CheckpointError` if it is invalid.
    """
    if data[: len(LFS_POINTER)] == LFS_POINTER:
        raise CheckpointError(f"{file.name} was not downloaded", **LFS)
    if data[:4] != MAGIC:
        raise _damaged(file, f"it begins with {data[:4]!r}")
    cursor = _Cursor(data, file, 4)
    version, tensors, entries = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in (2, 3):
        raise CheckpointError(
            f"{file.name}: version of GGUF",
            got=version,
            expected="2 or 3, little-endian",
            hint="make the file anew with llama.cpp's convert_hf_to_gguf.py",
        )
    if tensors > _MAX_COUNT or entries > _MAX_COUNT:
        raise _damaged(file, f"{tensors} tensors and {entries} entries of metadata")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.text()
        if key in metadata:
            raise _damaged(file, f"{shown(key)} stands twice")
        metadata[key] = cursor.value(cursor.number("I"))
    align = metadata.get("general.alignment", 32)
    if type(align) is not int or not 0 < align <= 2**20 or align % 8:
        raise _damaged(file, f"general.alignment {align!r}")
    heads = [cursor.tensor() for _ in range(tensors)]
    start = -(-cursor.at // align) * align
    found = tuple(_placed(file, head, start, align, size) for head in heads)
    _check_spans(file, found)
    return GgufFile(metadata, found)


def _damaged(file: Path, got: str) -> CheckpointError:
    return CheckpointError(f"{file.name} is no sound GGUF file", got=got, hint=_HINT)


class _Cursor:
    """A reading position in the header."""

    def __init__(self, data: bytes, file: Path, at: int) -> None:
        self.data, self.file, self.at = data, file, at

    def take(self, count: int) -> int:
        """Advance by `count` bytes; returns their start. Raises `TooShort`."""
        at = self.at
        if count > MAX_HEADER:
            raise _damaged(self.file, f"a value of {count} bytes")
        if at + count > len(self.data):
            raise TooShort
        self.at += count
        return at

    def number(self, kind: str) -> Any:
        """A number; `kind` is its format character in `struct`."""
        return struct.unpack_from(f"<{kind}", self.data, self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        """A length-prefixed UTF-8 string; invalid bytes become U+FFFD."""
        size = self.number("Q")
        at = self.take(size)
        return self.data[at : at + size].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A value of GGUF's type number `kind`: number, bool, string, or a list of these."""
        if kind == _TEXT:
            return self.text()
        if kind == _BOOL:
            return bool(self.number("B"))
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise _damaged(self.file, f"a value of type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner == _TEXT and count <= MAX_HEADER // 8:
            return [self.text() for _ in range(count)]
        code = "?" if inner == _BOOL else _NUMBERS.get(inner)
        if code is None:
            raise _damaged(self.file, f"an array of {count} values of type {inner}")
        at = self.take(count * struct.calcsize(code))
        return list(struct.unpack_from(f"<{count}{code}", self.data, at))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """A tensor's name, sizes (columns first), type and offset."""
        name, count = self.text(), self.number("I")
        if not 1 <= count <= 4:
            raise _damaged(self.file, f"tensor {shown(name)} of {count} dimensions")
        sizes = tuple(self.number("Q") for _ in range(count))
        return name, sizes, self.number("I"), self.number("Q")


def _placed(
    file: Path, head: tuple[str, tuple[int, ...], int, int], start: int, align: int, size: int
) -> GgufTensor:
    """A tensor after checking that its type, shape and bytes agree."""
    name, sizes, number, offset = head
    kind = _TYPES.get(number, f"number {number}")
    if kind not in BLOCKS:
        raise CheckpointError(
            f"{file.name}: tensor {shown(name)}",
            got=f"type {kind}",
            expected=", ".join(BLOCKS),
            hint="take a file of another quantization, such as Q4_K_M, Q5_K_M or Q8_0",
        )
    weights, nbytes = BLOCKS[kind]
    if any(not 0 < n < 2**40 for n in sizes) or sizes[0] % weights or math.prod(sizes) > 2**44:
        got = f"tensor {shown(name)}: sizes {list(sizes)} in blocks of {weights}"
        raise _damaged(file, got)
    total = math.prod(sizes) // weights * nbytes
    if offset % align or start + offset + total > size:
        got = f"tensor {shown(name)}: {total} bytes from byte {start + offset} on, of {size}"
        raise _damaged(file, got)
    return GgufTensor(name, kind, sizes[::-1], total, file, start + offset)


def _check_spans(file: Path, tensors: tuple[GgufTensor, ...]) -> None:
    """Raise if two tensors overlap or have the same name."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise _damaged(file, "two tensors of one name")
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise _damaged(file, f"tensor {shown(tensor.name)} overlaps another")
        end = tensor.offset + tensor.nbytes
