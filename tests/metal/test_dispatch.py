"""What runs and what doesn't: forced both ways, unproven, broken, unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qwen3_mlx.device.backend as backend

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.metal import dispatch, launch, probe


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, the probe's answers aside."""
    monkeypatch.setattr(launch, "executor", launch.on_gpu)
    monkeypatch.setattr(backend, "device", lambda: "metal")
    monkeypatch.setattr(probe, "fault", lambda name: None)


def choose(monkeypatch: pytest.MonkeyPatch, kernels: str) -> set[str]:
    monkeypatch.setenv("QWEN3_MLX_KERNELS", kernels)
    return {name for name, _, state in dispatch.rows() if state == "runs"}


def test_it_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, "auto") == set(dispatch.KERNELS)
    assert choose(monkeypatch, "off") == set()
    assert choose(monkeypatch, "down, route") == {"down", "route"}
    assert dispatch.unavailable_reason("down", "route") is None
    assert dispatch.unavailable_reason("down", "matvec") == "switched off by QWEN3_MLX_KERNELS"


def test_an_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "matvec,typo")
    with pytest.raises(OptionError, match="typo"):
        dispatch.unavailable_reason("matvec")


def test_unset_only_what_is_proven_runs(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    monkeypatch.delenv("QWEN3_MLX_KERNELS", raising=False)
    monkeypatch.setattr(dispatch, "PROVEN", {"metal": frozenset({"down"})})
    assert dispatch.unavailable_reason("down") is None
    assert "not yet proven on metal" in (dispatch.unavailable_reason("down", "matvec") or "")


def test_what_mlx_does_better_is_left_to_it(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    assert choose(monkeypatch, "auto") == set(dispatch.KERNELS) - {"gather_matmul"}
    assert "MLX's own" in (dispatch.unavailable_reason(*dispatch.PROMPT) or "")
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    assert dispatch.unavailable_reason(*dispatch.PROMPT) is None


def test_the_cpu_backend_runs_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "executor", launch.on_gpu)
    monkeypatch.setattr(backend, "device", lambda: "cpu")
    assert choose(monkeypatch, "auto") == set()
    assert "CPU" in (dispatch.unavailable_reason("matvec") or "")


def test_a_fault_switches_off(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    monkeypatch.setattr(probe, "fault", lambda name: "broken" if name == "down" else None)
    assert choose(monkeypatch, "down,route") == {"route"}
    assert dispatch.unavailable_reason("down") == "broken"


def test_there_is_a_tiny_case_of_every_kernel() -> None:
    assert set(probe.CASES) == set(dispatch.KERNELS)


@pytest.mark.parametrize("name", probe.CASES)
def test_the_probe_passes_here(name: str) -> None:
    assert probe.fault.__wrapped__(name) is None


BROKEN = {
    "matvec": ("matvec.metal", "* rstd;", ";"),
    "gate_up": ("gate_up.metal", "* u * weight", "* u"),
    "down": ("down.metal", "total + float(residual[out])", "total"),
    "route": ("choose.metal", "/ total", ""),
    "attend": ("attend.metal", "source < 3", "source < 2"),
    "attend_packed": ("packed_shares.metal", "float(scale)", "float(bias)"),
    "gather_matmul": ("gather_matmul.metal", "* up[0] * weight", "* up[0]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_probe_finds_a_wrong_result(
    name: str, mutate: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    mutate(*BROKEN[name])
    assert "wrong result" in (probe.fault.__wrapped__(name) or "")
    said = capsys.readouterr().err
    assert said.startswith(f"qwen3-mlx: kernel {name} is switched off: ")
    assert len(said.splitlines()) == 1


def test_the_probe_survives_what_does_not_build(
    mutate: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    mutate("matvec.metal", "float squares = 0;", "no metal at all;")
    assert "does not run on this machine" in (probe.fault.__wrapped__("matvec") or "")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_cuda_reads_the_texts_from_their_files() -> None:
    """MLX passes the shapes that the given text names, so the line has to name them."""
    for file in ("cuda.h", "attend.metal", "gate_up.metal"):
        include, path, shapes = launch.included(file).split('"')
        assert include == "#include " and Path(path).read_text("utf-8").strip()
        assert Path(path).name == file
        assert ("keys_w_shape" in shapes) == (file == "attend.metal")
