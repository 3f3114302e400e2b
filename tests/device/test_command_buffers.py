"""Command-buffer limits: raised where that is known to help, never against the user."""

from __future__ import annotations

import sys

import pytest

from qwen3_mlx.device import command_buffers

GB = 2**30
RAISED = {"MLX_MAX_OPS_PER_BUFFER": "1000", "MLX_MAX_MB_PER_BUFFER": "400"}


@pytest.mark.parametrize("chip", ["Apple M1 Ultra", "Apple M3 Ultra", "Apple M4 Max"])
def test_raised_on_large_machines(chip: str) -> None:
    values, why = command_buffers.decide(chip, 96 * GB, {})
    assert values == RAISED
    assert chip in why


@pytest.mark.parametrize("chip", ["Apple M5 Max", "Apple M2", "Apple M4 Pro", "Intel", ""])
def test_left_alone_elsewhere(chip: str) -> None:
    values, why = command_buffers.decide(chip, 512 * GB, {})
    assert values == {} and why.startswith("MLX's own")


def test_left_alone_with_little_memory() -> None:
    assert command_buffers.decide("Apple M1 Max", 32 * GB, {})[0] == {}
    assert command_buffers.decide("Apple M1 Max", 64 * GB, {})[0] == RAISED


@pytest.mark.parametrize("name", RAISED)
def test_what_the_user_set_stays(name: str) -> None:
    values, why = command_buffers.decide("Apple M3 Ultra", 512 * GB, {name: "7"})
    assert values == {}
    assert why == f"set by you: {name}"


def test_apply_sets_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"machdep.cpu.brand_string": "Apple M3 Ultra", "hw.memsize": str(512 * GB)}
    monkeypatch.setattr(command_buffers.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(command_buffers.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(command_buffers, "_sysctl", answers.__getitem__)
    for name in RAISED:  # registered with monkeypatch, so that it is undone
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert command_buffers.apply().startswith("raised")
    assert {name: command_buffers.os.environ[name] for name in RAISED} == RAISED


@pytest.mark.skipif(sys.platform == "darwin", reason="there it may set something")
def test_apply_does_nothing_here() -> None:
    assert "only Metal" in command_buffers.apply()
