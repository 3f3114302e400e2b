"""What runs and what doesn't: forced both ways, untried, wrong, slower, unknown."""

from __future__ import annotations

from pathlib import Path

import qwen3_mlx.device.backend as backend

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.metal import dispatch, launch
from qwen3_mlx.metal.verdict import Arm, Reading, Verdict

ALL = list(dispatch.KERNELS)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(launch, "executor", launch.on_gpu)
    monkeypatch.setattr(backend, "device", lambda: "metal")
    monkeypatch.delenv("QWEN3_MLX_KERNELS", raising=False)


def choose(
    monkeypatch: pytest.MonkeyPatch, kernels: str, verdict: Verdict | None = None
) -> set[str]:
    monkeypatch.setenv("QWEN3_MLX_KERNELS", kernels)
    return {name for name, _, state in dispatch.rows(verdict) if state == "runs"}


def timed(*winners: Arm, noise: str = "") -> Verdict:
    """All kernels right, and who won."""
    readings = {str(i): Reading({"stock": 1.0}, {}, arm, noise) for i, arm in enumerate(winners)}
    return Verdict(right=ALL, readings=readings)


def test_it_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, "auto") == set(dispatch.KERNELS)
    assert choose(monkeypatch, "off") == set()
    assert choose(monkeypatch, "down, route") == {"down", "route"}
    assert dispatch.unavailable_reason("down", "route") is None
    assert dispatch.unavailable_reason("down", "matvec") == "switched off by QWEN3_MLX_KERNELS"


def test_an_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "matvec,typo")
    with pytest.raises(OptionError, match=r"typo(.|\n)*hint: unset QWEN3_MLX_KERNELS"):
        dispatch.unavailable_reason("matvec")


@pytest.mark.parametrize("device", ["metal", "cuda"])
def test_without_a_verdict_nothing_runs(
    device: str, monkeypatch: pytest.MonkeyPatch, on_gpu: None
) -> None:
    """On no backend, and whatever is asked for: right comes first."""
    monkeypatch.setattr(backend, "device", lambda: device)
    assert "not yet tried" in (dispatch.unavailable_reason("down") or "")
    assert choose(monkeypatch, "auto") == choose(monkeypatch, "down") == set()


def test_unset_what_won_runs(on_gpu: None) -> None:
    assert dispatch.unavailable_reason("down", verdict=timed("fused", "stock")) is None
    assert dispatch.unavailable_reason("down", verdict=timed("stock", "hybrid")) is None
    tie = dispatch.unavailable_reason("down", verdict=timed("stock", "stock"))
    assert tie == "MLX's own operations are as fast on this machine"
    assert "not yet timed" in (dispatch.unavailable_reason("down", verdict=timed()) or "")
    noisy = timed("stock", noise="2 of 6 agree")
    assert dispatch.unavailable_reason("down", verdict=noisy) == "undecided: 2 of 6 agree"


def test_auto_takes_what_is_right(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    """Faster or not, timed or not; what MLX does better on a backend is left to it."""
    assert choose(monkeypatch, "auto", timed()) == {*ALL} - {"gather_matmul", "skinny"}
    assert choose(monkeypatch, "down, route", timed("stock")) == {"down", "route"}
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    assert choose(monkeypatch, "auto", timed("stock")) == {*ALL}


def test_what_is_wrong_never_runs(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    found = timed("fused")
    found.wrong["down"] = "squared error 2"
    assert dispatch.unavailable_reason("down", verdict=found) == "squared error 2"
    assert "down" not in choose(monkeypatch, "auto", found)
    found.wrong["step"] = "still running after 60 s"
    assert choose(monkeypatch, "auto", found) == set()
    unknown = Verdict(right=["down"], readings=found.readings)
    assert choose(monkeypatch, "auto", unknown) == {"down"}


def test_the_cpu_backend_runs_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "executor", launch.on_gpu)
    monkeypatch.setattr(backend, "device", lambda: "cpu")
    assert choose(monkeypatch, "auto", timed("fused")) == set()
    assert "CPU" in (dispatch.unavailable_reason("matvec") or "")


def test_cuda_reads_the_texts_from_their_files() -> None:
    """MLX passes the shapes that the given text names, so the line has to name them."""
    for file in ("cuda.h", "skinny.metal", "gate_up.metal"):
        include, path, shapes = launch.included(file).split('"')
        assert include == "#include " and Path(path).read_text("utf-8").strip()
        assert Path(path).name == file
        assert ("x_shape" in shapes) == (file == "skinny.metal")
