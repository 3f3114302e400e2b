"""Weights in their own pages: off unless asked for and proven; the same numbers when on.

MLX's CPU backend adopts no memory, so here the last step is a copy; pages, places and types are
those a Mac would use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network, mapped
from qwen3_mlx.errors import CheckpointError
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


def test_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not mapped.state().on and "QWEN3_MLX_ZERO_COPY=on" in mapped.state().why
    monkeypatch.setenv("QWEN3_MLX_ZERO_COPY", "on")
    assert mapped.state() == mapped.State(
        False, f"off: MLX adopts memory on Metal only, not on {backend.device()}"
    )


def test_the_probe_fails_where_mlx_adopts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "pages"
    file.write_bytes(bytes(range(256)) * (4 * mapped.PAGE // 256))
    assert not mapped.works(file)
    monkeypatch.setattr(mapped, "_wrap", mx.array)
    assert mapped.works(file)
    monkeypatch.setattr(mapped, "_wrap", lambda view: mx.array(view) + 1)
    assert not mapped.works(file)  # other numbers than the file's


def test_a_failing_probe_means_plain_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_ZERO_COPY", "on")
    monkeypatch.setattr(backend, "device", lambda: "metal")
    mapped._probed.cache_clear()
    assert mapped.state() == mapped.State(False, "off: the probe failed (exit 3)")
    mapped._probed.cache_clear()


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


def test_a_file_cut_short_since_its_header_was_read_is_refused(
    on: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(2 * mapped.PAGE))
    info = mapped.TensorInfo("x", "F32", (mapped.PAGE // 4,), mapped.PAGE, file, mapped.PAGE)
    assert mapped.Maps().adopt(info) is not None
    file.write_bytes(bytes(mapped.PAGE + 8))
    with pytest.raises(CheckpointError, match="x was cut short while it was read"):
        mapped.Maps().adopt(info)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="can't be mapped"):
        mapped.Maps().adopt(info)
    assert on
