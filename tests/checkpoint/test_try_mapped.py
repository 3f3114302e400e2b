"""Mapped weights tried in children: what is right and faster, and whatever can go wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import pytest

from qwen3_mlx.checkpoint import mapped, try_mapped
from qwen3_mlx.checkpoint.mapped import PAGE
from qwen3_mlx.checkpoint.try_mapped import Measurement

SIZES = {"a": 2, "b": 3, "c": 1}
"""Pages of each tensor."""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkpoint of whole pages, as `convert` writes them, and a Mac whose children are here."""
    monkeypatch.setattr(backend, "device", lambda: "metal")
    monkeypatch.setattr(try_mapped, "CHILD", [sys.executable, "-m", "tests.checkpoint.map_on_cpu"])
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QWEN3_MLX_ZERO_COPY", raising=False)
    header, at = dict[str, Any](), 0
    for name, size in SIZES.items():
        place = {"dtype": "U32", "shape": [size, PAGE // 4]}
        header[name] = place | {"data_offsets": [at, at + size * PAGE]}
        at += size * PAGE
    text = json.dumps(header).encode().ljust(PAGE - 8)
    data = bytes(i * 7 % 251 for i in range(at))
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return directory


def test_it_is_tried_and_kept(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """End to end: the same pages both ways; which is faster here is no matter."""
    state, unkept = try_mapped.prove(pages)
    assert unkept is None and state.right and "to the first pass" in state.why
    assert mapped.saved_state() == state and mapped.state().on == state.on
    monkeypatch.setattr(try_mapped, "CHILD", ["false"])
    assert try_mapped.prove(pages, again=False) == (state, None), "it was tried again"
    assert not try_mapped.prove(pages)[0].right


FAULTS = {
    "wrong": "other numbers than the file's",
    "refused": "MLX does not adopt a",
    "hang": "still running after",
    "segfault": "exit -11",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_leaves_weights_read(
    fault: str, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_TEST_FAULT", fault)
    if fault == "hang":
        monkeypatch.setattr(try_mapped, "LIMIT_S", 8.0)
    state, _ = try_mapped.prove(pages)
    assert not state.on and not state.right and FAULTS[fault] in state.why
    monkeypatch.setenv("QWEN3_MLX_ZERO_COPY", "on")
    assert not mapped.state().on, "what is wrong can't be asked for"


GIVEN = Measurement("x", 1.0, 0.1, 1000)


@pytest.mark.parametrize(
    ("found", "on", "right"),
    [
        (replace(GIVEN, first=0.5), True, True),
        (replace(GIVEN, first=0.99), False, True),
        (replace(GIVEN, first=0.5, again=0.11), False, True),
        (replace(GIVEN, first=0.5, peak=1100), False, True),
        (replace(GIVEN, first=0.5, sums="y"), False, False),
    ],
)
def test_who_wins(found: Measurement, on: bool, right: bool) -> None:
    """Sooner by 1.03 ×, and nothing lost on the way."""
    state = try_mapped.decide([GIVEN] * 2, [found] * 2)
    assert (state.on, state.right) == (on, right)


def test_reading_itself_must_agree() -> None:
    both = [GIVEN, replace(GIVEN, sums="y")]
    assert not try_mapped.decide(both, both).right


def test_children_take_no_more_than_they_may(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(try_mapped, "MAX_BYTES", 4 * PAGE)
    assert [info.name for info in try_mapped.tensors(pages)] == ["a", "c"]


def test_there_may_be_nothing_to_try(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pages / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert "no tensor begins at a page" in try_mapped.prove(pages)[0].why
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    assert "on Metal only" in try_mapped.prove(pages)[0].why
    assert mapped.saved_state() is None


def test_a_folder_that_cannot_be_written(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    state, unkept = try_mapped.prove(pages)
    assert state.right and unkept and not mapped.state().on
