"""Limits for MLX, and the look ahead."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from qwen3_mlx import load
from qwen3_mlx.checkpoint import mapped
from qwen3_mlx.device import memory_limits
from qwen3_mlx.errors import OptionError, OutOfMemoryError
from qwen3_mlx.fit import guard, machine
from qwen3_mlx.fit.machine import Machine

SET = 11_000_000_000


def test_only_metal_is_limited() -> None:
    for device in ("cpu", "cuda"):
        limits = memory_limits.decide(device, SET, "", {"QWEN3_MLX_WIRED": "on"})
        assert (limits.memory, limits.cache, limits.wired) == (None, None, None)
    limits = memory_limits.decide("metal", SET, "15.1", {})
    assert (limits.memory, limits.cache, limits.wired) == (SET, SET // 8, None)
    assert "mlx#3186" in limits.wired_why


@pytest.mark.parametrize(
    ("macos", "value", "wired"),
    [("15.0", "on", SET), ("26.4.1", "on", SET), ("14.7", "on", None), ("26.0", "off", None)],
)
def test_wired_memory_is_asked_for_and_needs_macos_15(
    macos: str, value: str, wired: int | None
) -> None:
    limits = memory_limits.decide("metal", SET, macos, {"QWEN3_MLX_WIRED": value})
    assert limits.wired == wired


def test_mlx_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlx.core as mx

    told = {}
    for name in ("memory", "cache", "wired"):
        monkeypatch.setattr(mx, f"set_{name}_limit", lambda value, n=name: told.update({n: value}))
    monkeypatch.setattr("qwen3_mlx.device.backend.device", lambda: "metal")
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": SET})
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.2", ("", "", ""), "arm64"))
    monkeypatch.setenv("QWEN3_MLX_WIRED", "on")
    memory_limits.apply.__wrapped__()
    assert told == {"memory": SET, "cache": SET // 8, "wired": SET}


def test_the_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_MEMORY_LIMIT", "0.001")
    with pytest.raises(OutOfMemoryError) as caught:
        guard.require(2_000_000_000, "at 7 tokens", "try less")
    needed = r"out of memory at 7 tokens: got 2\.0 GB needed, [\d.]+ [kM]B left of the 0\.001 GB"
    assert re.match(needed, str(caught.value))
    assert str(caught.value).endswith("hint: try less")
    monkeypatch.setenv("QWEN3_MLX_FIT", "off")
    guard.require(2_000_000_000, "at 7 tokens")
    monkeypatch.undo()
    guard.require(1000, "at 7 tokens")


@pytest.mark.parametrize("value", ["bogus", "OFF", "0"])
def test_a_variable_that_says_neither_on_nor_off_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    asks: dict[str, Callable[[], object]] = {
        "QWEN3_MLX_FIT": lambda: load("demo"),
        "QWEN3_MLX_ZERO_COPY": mapped.state,
        "QWEN3_MLX_WIRED": memory_limits.apply.__wrapped__,
    }
    for variable, ask in asks.items():
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            message = f"{variable}: got {value!r}, expected on or off\nhint: unset {variable}"
            with pytest.raises(OptionError, match=re.escape(message)):
                ask()


def test_swap_counts_and_all_that_is_free_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow, but it works: a machine that swaps is not out of memory."""
    asked: list[bool] = []

    def free(swap: bool = False) -> Machine:
        asked.append(swap)
        return Machine(left, "")

    monkeypatch.setattr(machine, "this_machine", free)
    left = 1_000
    guard.require(1_000, "while loading", "")
    with pytest.raises(OutOfMemoryError, match="while loading"):
        guard.require(1_001, "while loading", "")
    assert asked == [True, True]
    left = 10**12
    load("demo")
    assert asked[2:] and all(asked), "also before a model is loaded"
