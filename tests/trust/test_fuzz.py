"""A little of the fuzzing, the same every time, and what it and its authors found."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import pytest

from qwen3_mlx.checkpoint.headers import read_header
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.text import parse_tool_call
from tests import fuzz


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_no_fault(name: str, tmp_path: Path) -> None:
    assert fuzz.hunt(name, 0, 60, 600, tmp_path) == []


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_the_seeds_are_sound(name: str, tmp_path: Path) -> None:
    target = fuzz.TARGETS[name]
    one = target.make(tmp_path)
    for data in target.seeds:
        one(data)


def test_faults_and_warnings_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(data: bytes) -> None:
        warnings.warn("seen on the terminal", SyntaxWarning, stacklevel=1)
        raise KeyError("not ours")

    monkeypatch.setitem(fuzz.TARGETS, "calls", fuzz.Target(lambda folder: one, [b"x"]))
    assert fuzz.hunt("calls", 5, 1, 600, tmp_path) == [
        "calls 5 0: KeyError: 'not ours'",
        "calls 5 0: SyntaxWarning: seen on the terminal",
    ]


def test_what_python_would_warn_of_in_a_call_is_read_silently() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call = parse_tool_call(r"{'name': 'f', 'arguments': {'a': 'C:\data'}}")
        with pytest.raises(ValueError):
            parse_tool_call("{'name': 'f', 'arguments': [0x1for x in (1,)]}")
    assert call.arguments == {"a": r"C:\data"} and said == []


def test_a_shape_of_a_million_sizes_is_refused_at_once(tmp_path: Path) -> None:
    entry = {"dtype": "U8", "shape": [2**62] * 50_000, "data_offsets": [0, 0]}
    text = json.dumps({"a": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    began = time.process_time()
    with pytest.raises(CheckpointError, match="tensor a"):
        read_header(file)
    assert time.process_time() - began < 2
