"""Weights in their own pages: off unless this machine found that to pay; the same numbers when on.

MLX's CPU backend adopts no memory, so here the last step is a copy; pages, places and types are
those a Mac would use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network, mapped
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.metal import verdict
from tests.checkpoints import GOLDEN, copy, join, split

TOKENS = mx.array([[1, 2, 3, 4, 5]])


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Maps are on, and every adopted view is noted."""
    adopted: list[Any] = []

    def wrap(view: Any) -> mx.array:
        adopted.append(view)
        return mx.array(view)

    monkeypatch.setattr(mapped, "state", lambda: mapped.State(True, "for a test"))
    monkeypatch.setattr(mapped, "_wrap", wrap)
    return adopted


def aligned(directory: Path) -> Path:
    """The checkpoint's file again, the first tensor where a page begins."""
    header, data = split(directory)
    file = directory / "model.safetensors"
    header.pop("__metadata__", None)
    plain = len(join(header, b""))
    header["__metadata__"] = {"pad": ""}
    empty = len(join(header, b""))
    assert plain < empty < mapped.PAGE
    header["__metadata__"] = {"pad": " " * (mapped.PAGE - empty)}
    file.write_bytes(join(header, data))
    return file


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a Mac whose verdicts are in a folder of the test's."""
    monkeypatch.setattr(backend, "device", lambda: "metal")
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QWEN3_MLX_ZERO_COPY", raising=False)


def keep(held: dict[str, Any]) -> None:
    file = mapped.verdict_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(held))


FASTER = {"on": True, "why": "faster", "right": True}
SLOWER = {"on": False, "why": "no gain", "right": True}
WRONG = {"on": False, "why": "other numbers", "right": False}


@pytest.mark.parametrize(
    ("held", "asked", "on"),
    [
        *((FASTER, asked, asked != "off") for asked in ("", "on", "off")),
        *((SLOWER, asked, asked == "on") for asked in ("", "on", "off")),
        *((WRONG, asked, False) for asked in ("", "on", "off")),
        *((None, asked, False) for asked in ("", "on", "off")),
        ({"on": 1, "why": "x", "right": True}, "", False),
        ({"on": True}, "", False),
    ],
)
@pytest.mark.usefixtures("metal")
def test_the_verdict_decides(
    held: dict[str, Any] | None, asked: str, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_MLX_ZERO_COPY", asked)
    if held is not None:
        keep(held)
    assert mapped.state().on is on


def test_nowhere_but_on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_ZERO_COPY", "on")
    where = f"off: MLX adopts memory on Metal only, not on {backend.device()}"
    assert mapped.state() == mapped.State(False, where)


@pytest.mark.usefixtures("metal")
def test_another_machine_s_verdict_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(FASTER)
    assert mapped.state().on
    monkeypatch.setattr(verdict, "machine", lambda: "metal Apple M9")
    assert not mapped.state().on and "not yet tried" in mapped.state().why


@pytest.mark.parametrize("name", ["dense-untied", "moe-norm"])
def test_the_logits_are_the_same(name: str, on: list[Any], tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    aligned(directory)
    got = load_network(directory)[0](TOKENS)
    assert len(on) >= 1
    want = load_network(GOLDEN / name)[0](TOKENS)
    assert np.array_equal(np.array(got), np.array(want))


def test_types_and_places(on: list[Any], tmp_path: Path) -> None:
    values = mx.arange(mapped.PAGE // 2).astype(mx.bfloat16)
    file = tmp_path / "x"
    raw = bytes(memoryview(values.view(mx.uint8)))  # type: ignore[arg-type]  # MLX has the protocol
    file.write_bytes(bytes(mapped.PAGE) + raw)
    info = mapped.TensorInfo("x", "BF16", (2, mapped.PAGE // 4), len(raw), file, mapped.PAGE)
    got = mapped.Maps().adopt(info)
    assert got is not None and got.dtype == mx.bfloat16
    assert bool(mx.array_equal(got.flatten(), values).item())
    off = mapped.TensorInfo("x", "BF16", (3,), 6, file, mapped.PAGE + 2)
    assert mapped.Maps().adopt(off) is None  # not where a page begins: read the plain way


def test_pages_are_adopted_or_left_but_never_copied(tmp_path: Path) -> None:
    """MLX adopts memory on Metal only; a copy elsewhere would hold the weights twice."""
    file = tmp_path / "x"
    file.write_bytes(bytes(mapped.PAGE))
    info = mapped.TensorInfo("x", "F32", (mapped.PAGE // 4,), mapped.PAGE, file, 0)
    assert (mapped.Maps().adopt(info) is not None) is (backend.device() == "metal")


def test_a_file_cut_short_since_its_header_was_read_is_refused(
    on: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(2 * mapped.PAGE))
    info = mapped.TensorInfo("x", "F32", (mapped.PAGE // 4,), mapped.PAGE, file, mapped.PAGE)
    assert mapped.Maps().adopt(info) is not None
    file.write_bytes(bytes(mapped.PAGE + 8))
    said = "x was cut short while it was read: got 16392 bytes, expected at least 32768"
    with pytest.raises(CheckpointError, match=said):
        mapped.Maps().adopt(info)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="can't be mapped"):
        mapped.Maps().adopt(info)
    assert on
