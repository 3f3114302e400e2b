"""Mapped weights tried in children: what is right and faster, and whatever can go wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
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


def test_the_last_words_of_a_child_are_told_in_120_characters(
    pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import sys; sys.exit('first line\\n{'x' * 119}yz')"
    monkeypatch.setattr(try_mapped, "CHILD", [sys.executable, "-c", code])
    state, _ = try_mapped.prove(pages)
    assert state == mapped.State(False, f"read: exit 1: {'x' * 119}y")
    monkeypatch.setattr(try_mapped, "CHILD", ["false"])
    assert try_mapped.prove(pages)[0].why == "read: exit 1: no word said"


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


EVEN = Measurement("x", 1.04, 1.0, 100)


@pytest.mark.parametrize(
    ("found", "on"),
    [
        (replace(EVEN, first=1.0), True),
        (replace(EVEN, first=1.02), False),  # sooner by less than 1.03 ×
        (replace(EVEN, first=1.0, again=1.03, peak=103), True),
        (replace(EVEN, first=1.0, again=1.04), False),
        (replace(EVEN, first=1.0, peak=104), False),
    ],
)
def test_a_gain_is_three_hundredths_and_a_loss_is_more(found: Measurement, on: bool) -> None:
    assert try_mapped.decide([EVEN], [found]).on is on


def test_the_median_counts_and_the_ratios_are_told() -> None:
    slow = replace(GIVEN, first=9.0, again=9.0, peak=9000)
    fast = Measurement("x", 0.5, 0.05, 500)
    state = try_mapped.decide([slow, GIVEN, GIVEN], [fast, slow, fast])
    assert state.on
    ratios = "2.00 × as fast to the first pass, 2.00 × in the next, 0.50 × the peak"
    assert state.why == f"right and faster: {ratios}"


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


def test_the_child_prints_what_it_measured_of_whole_pages(pages: Path) -> None:
    command = [sys.executable, "-m", "qwen3_mlx.checkpoint.try_mapped", str(pages), "read"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = Measurement(**json.loads(run.stdout))
    assert found.first > 0 and found.again > 0 and found.peak > 0
    data = (pages / "model.safetensors").read_bytes()[PAGE:]
    each = [sum(data[at : at + PAGE]) for at in range(0, len(data), PAGE)]
    sums = hashlib.sha256()
    for size in SIZES.values():
        sums.update(str(each[:size]).encode())
        each = each[size:]
    assert found.sums == sums.hexdigest()
