"""Safetensors files that lie: cut, corrupt, absurd or malicious ones are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.headers import read_header
from qwen3_mlx.errors import CheckpointError
from tests.checkpoints import copy, join, refused, split

Q0 = "model.layers.0.self_attn.q_proj.weight"
K0 = "model.layers.0.self_attn.k_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untied dense checkpoint in one file."""
    return copy("dense-untied", tmp_path)


Entry = Callable[[dict[str, Any], int], dict[str, Any]]


def with_entry(change: Entry) -> Callable[[Path], bytes]:
    """Return a maker of a file whose header says something else of one tensor."""

    def damage(directory: Path) -> bytes:
        header, data = split(directory)
        header[Q0] = change(header[Q0], len(data))
        return join(header, data)

    return damage


def offsets(start: Any, end: Any) -> Callable[[Path], bytes]:
    return with_entry(lambda entry, _: entry | {"data_offsets": [start, end]})


def raw(change: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    return lambda directory: change((directory / "model.safetensors").read_bytes())


def header_text(change: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    """Return a maker of a file with another text in the place of the header."""

    def damage(directory: Path) -> bytes:
        header, data = split(directory)
        return join(change(json.dumps(header).encode()), data)

    return damage


def overlapping(directory: Path) -> bytes:
    """Two tensors of one shape in the same bytes; the bytes of the other belong to nobody."""
    header, data = split(directory)
    header[K0]["data_offsets"] = header["model.layers.0.self_attn.v_proj.weight"]["data_offsets"]
    return join(header, data)


def shifted(directory: Path) -> bytes:
    """All tensors from the second on lie 16 bytes further: a gap nobody accounts for."""
    header, data = split(directory)
    spans = [v["data_offsets"] for k, v in header.items() if k != "__metadata__"]
    first = min(end for _, end in spans)
    for span in spans:
        if span[0] >= first:
            span[:] = [span[0] + 16, span[1] + 16]
    return join(header, data[:first] + bytes(16) + data[first:])


LIES: dict[str, Callable[[Path], bytes]] = {
    "empty": raw(lambda b: b""),
    "five bytes": raw(lambda b: b[:5]),
    "length only": raw(lambda b: b[:8]),
    "cut in the header": raw(lambda b: b[:300]),
    "no tensors' bytes": raw(lambda b: b[: 8 + int.from_bytes(b[:8], "little")]),
    "half of it": raw(lambda b: b[: len(b) // 2]),
    "last byte missing": raw(lambda b: b[:-1]),
    "a byte too many": raw(lambda b: b + b"\0"),
    "a megabyte too many": raw(lambda b: b + bytes(1 << 20)),
    "header length 0": raw(lambda b: bytes(8) + b[8:]),
    "header length 1": raw(lambda b: (1).to_bytes(8, "little") + b[8:]),
    "header length 2^60": raw(lambda b: (1 << 60).to_bytes(8, "little") + b[8:]),
    "header length 2^64 - 1": raw(lambda b: b"\xff" * 8 + b[8:]),
    "header to the end": raw(lambda b: (len(b) - 8).to_bytes(8, "little") + b[8:]),
    "header past the end": raw(lambda b: (len(b) - 7).to_bytes(8, "little") + b[8:]),
    "big-endian length": raw(lambda b: b[:8][::-1] + b[8:]),
    "a pickle": raw(lambda b: b"\x80\x04\x95" + b[3:]),
    "a web page": raw(lambda b: b"<!DOCTYPE html><html><body>404</body></html>"),
    "a large-file pointer": raw(lambda b: b"version https://git-lfs.github.com/spec/v1\noid x\n"),
    "not JSON": header_text(lambda t: t[:-1] + b"]"),
    "JSON, but a list": header_text(lambda t: b"[" + t + b"]"),
    "not UTF-8": header_text(lambda t: t.replace(b"q_proj", b"q_pr\xff\xfe")),
    "UTF-16": header_text(lambda t: t.decode().encode("utf-16")),
    "too deep": header_text(lambda t: b"[" * 100_000),
    "metadata is a number": header_text(lambda t: t[:-1] + b', "__metadata__": 5}'),
    "metadata of numbers": header_text(lambda t: t[:-1] + b', "__metadata__": {"a": 5}}'),
    "a name twice": header_text(
        lambda t: (
            t[:-1] + b', "model.norm.weight": {"dtype":"F32","shape":[24],"data_offsets":[0,96]}}'
        )
    ),
    "an entry is null": with_entry(lambda entry, _: None),  # type: ignore[arg-type, return-value]
    "an entry is a list": with_entry(lambda entry, _: [entry]),  # type: ignore[arg-type, return-value]
    "no dtype": with_entry(lambda e, _: {k: v for k, v in e.items() if k != "dtype"}),
    "no shape": with_entry(lambda e, _: {k: v for k, v in e.items() if k != "shape"}),
    "no offsets": with_entry(lambda e, _: {k: v for k, v in e.items() if k != "data_offsets"}),
    "unknown dtype": with_entry(lambda e, _: e | {"dtype": "F31"}),
    "dtype of another size": with_entry(lambda e, _: e | {"dtype": "F64"}),
    "dtype is a list": with_entry(lambda e, _: e | {"dtype": ["F32"]}),
    "shape larger than its bytes": with_entry(lambda e, _: e | {"shape": [65, 24]}),
    "shape smaller than its bytes": with_entry(lambda e, _: e | {"shape": [63, 24]}),
    "negative shape": with_entry(lambda e, _: e | {"shape": [-64, -24]}),
    "fractional shape": with_entry(lambda e, _: e | {"shape": [64.0, 24.0]}),
    "shape of strings": with_entry(lambda e, _: e | {"shape": ["64", "24"]}),
    "shape is a number": with_entry(lambda e, _: e | {"shape": 1536}),
    "absurd shape": with_entry(lambda e, _: e | {"shape": [1 << 40, 1 << 40]}),
    "shape that wraps to its size": with_entry(lambda e, _: e | {"shape": [64 + (1 << 32), 24]}),
    "past the end": with_entry(lambda e, n: e | {"data_offsets": [n, n + 64 * 24 * 4]}),
    "far past the end": offsets(1 << 62, (1 << 62) + 64 * 24 * 4),
    "negative offsets": offsets(-64 * 24 * 4, 0),
    "ends before it begins": offsets(64 * 24 * 4, 0),
    "offsets of true": offsets(True, 1 + 64 * 24 * 4),
    "fractional offsets": offsets(0.0, 6144.0),
    "offsets of strings": offsets("0", "6144"),
    "three offsets": with_entry(lambda e, _: e | {"data_offsets": [0, 1, 2]}),
    "offsets are null": with_entry(lambda e, _: e | {"data_offsets": None}),
    "overlapping tensors": overlapping,
    "a gap between tensors": shifted,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_damaged_file_is_refused(model: Path, lie: str) -> None:
    (model / "model.safetensors").write_bytes(LIES[lie](model))
    refused(model, "model.safetensors")


def test_a_file_taken_apart_and_joined_is_whole(model: Path) -> None:
    """What the lies above change is all that is wrong with them."""
    good = join(*split(model))
    for same in (good, with_entry(lambda entry, _: entry)(model), header_text(lambda t: t)(model)):
        (model / "model.safetensors").write_bytes(same)
        load_network(model)


def test_an_unreadable_file_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").mkdir()
    refused(model, "model.safetensors")


def test_no_weights_at_all(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert "\nhint: " in refused(model, str(model))


def test_other_files_are_no_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(model, str(model))


BYTES = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"], 1),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], 2),
    **dict.fromkeys(["U32", "I32", "F32"], 4),
    **dict.fromkeys(["U64", "I64", "F64"], 8),
}


@pytest.mark.parametrize("dtype", BYTES)
def test_a_number_of_each_dtype_has_its_bytes(tmp_path: Path, dtype: str) -> None:
    file = tmp_path / "x.safetensors"
    size = 6 * BYTES[dtype]
    for more in (0, -1, 1):
        entry = {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, size + more]}
        file.write_bytes(join({"a": entry}, bytes(size + more)))
        if more:
            with pytest.raises(CheckpointError, match="offsets that span the shape exactly"):
                read_header(file)
        else:
            found = read_header(file)["a"]
            assert (found.dtype, found.shape, found.nbytes) == (dtype, (2, 3), size)
            assert found.offset == file.stat().st_size - size


@pytest.mark.parametrize(("axes", "fits"), [(0, True), (32, True), (33, False)])
def test_a_tensor_has_32_axes_at_most(tmp_path: Path, axes: int, fits: bool) -> None:
    file = tmp_path / "x.safetensors"
    entry = {"dtype": "U8", "shape": [1] * axes, "data_offsets": [0, 1]}
    file.write_bytes(join({"a": entry}, b"x"))
    if fits:
        assert read_header(file)["a"].shape == (1,) * axes
    else:
        with pytest.raises(CheckpointError, match="tensor a"):
            read_header(file)


def test_an_empty_tensor_and_none_at_all(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    empty = {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]}
    file.write_bytes(join({"a": empty, "__metadata__": None}, b""))
    assert read_header(file)["a"].nbytes == 0
    file.write_bytes(join({}, b""))
    assert read_header(file) == {}


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0, 4), (2, 6)], "tensors overlap: got one begins at byte 2, expected 4"),
        ([(0, 4), (5, 9)], "tensors leave a gap: got one begins at byte 5, expected 4"),
        ([(1, 5)], "tensors leave a gap: got one begins at byte 1, expected 0"),
        ([(0, 4), (4, 8), (8, 12)], "cut short: got 9 bytes of tensors, expected 12"),
        ([(4, 8), (0, 4)], "too long: got 9 bytes of tensors, expected 8"),
    ],
)
def test_how_tensors_lie_in_a_file(tmp_path: Path, spans: list[tuple[int, int]], said: str) -> None:
    file = tmp_path / "x.safetensors"
    header = {
        f"t{n}": {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        for n, (start, end) in enumerate(spans)
    }
    file.write_bytes(join(header, bytes(9)))
    with pytest.raises(CheckpointError, match=said):
        read_header(file)


def test_200_characters_of_a_wrong_entry_are_told(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    entry = {"dtype": "F" * 300, "shape": [1], "data_offsets": [0, 1]}
    file.write_bytes(join({"a": entry}, b"x"))
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    assert f'got {{"dtype": "{"F" * 189}, expected' in str(caught.value)
