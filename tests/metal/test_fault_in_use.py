"""What goes wrong in a kernel once it is in use: the tokens are those of the plain path."""

from __future__ import annotations

from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import pytest

from qwen3_mlx.metal import launch, verdict
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.nn import fused_step, guarded
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.fused_step import FusedStep, unavailable_reason
from tests.metal.judged import MOE, keep, net, plain, proven, said

pytestmark = pytest.mark.usefixtures("judged")


class Throwing:
    """A network in use whose launch number `at` throws; `count` are all of its launches."""

    def __init__(
        self, patch: pytest.MonkeyPatch, changes: dict[str, Any], at: int, message: str
    ) -> None:
        self.network, self.count = net(**changes), 0
        self.off = plain(self.network, patch)
        self.file = keep(self.network, proven("fused", "fused"))
        choose_backend(self.network)
        run = launch.executor

        def throwing(given: Launch) -> list[mx.array]:
            self.count += 1
            if self.count == at:
                raise ValueError(message)
            return run(given)

        patch.setattr(launch, "executor", throwing)


@pytest.mark.parametrize(
    ("at", "changes"),
    [*((at, {}) for at in (1, 8, 15, 30)), *((at, MOE) for at in (1, 2, 5, 6, 7, 30))],
)
def test_a_throw_in_use_ends_in_the_plain_path(
    at: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """In the middle of a turn, or of its prompt: the same tokens, one line, the next is plain."""
    message = "Thread group size (512) is greater than the maximum allowed\nand so"
    one = Throwing(monkeypatch, changes, at, message)
    assert said(one.network) == one.off
    assert one.count == at, "no launch after the throw"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "failed, so plain operations go on" in lines[0]
    assert ("a kernel of the experts" if changes and at <= 6 else "a fused step") in lines[0]
    held = verdict.read(one.file)
    assert held is not None and held.wrong["step"].startswith("failed in use: Thread group size")
    assert "failed in use" in (unavailable_reason(one.network) or "")


@pytest.mark.parametrize(("at", "changes"), [(1, {}), (8, {}), (1, MOE), (5, MOE), (30, MOE)])
def test_a_trace_is_no_fault_of_a_kernel(
    at: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """MLX computes nothing within `mx.compile`, which says nothing of kernels: they stay on."""
    message = "[eval] Attempting to eval an array during function transformations"
    one = Throwing(monkeypatch, changes, at, message)
    assert said(one.network) == one.off
    assert one.count > at and capfd.readouterr().err == ""
    held = verdict.read(one.file)
    assert held is not None and not held.wrong
    assert unavailable_reason(one.network) is None


@pytest.mark.parametrize("changes", [{}, MOE])
def test_an_error_when_the_device_computes_is_caught_too(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = net(**changes)
    off = plain(network, monkeypatch)
    keep(network, proven("fused", "fused"))
    choose_backend(network)

    def refused(*_arrays: mx.array) -> None:
        raise ValueError("Thread group size (512) is greater than the maximum allowed (448)")

    monkeypatch.setattr(fused_step, "computed", refused)
    monkeypatch.setattr(guarded, "computed", refused)
    assert said(network) == off


def test_running_out_of_memory_is_no_fault_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    network = net()
    file = keep(network, proven("fused", "fused"))

    def full(*_arrays: mx.array) -> None:
        raise RuntimeError("[metal::malloc] Unable to allocate 17 bytes.")

    monkeypatch.setattr(fused_step, "computed", full)
    step = FusedStep.if_available(network)
    assert step is not None
    cache = step.make_cache()
    network(mx.array([[1, 2]]), cache)
    with pytest.raises(RuntimeError, match="malloc"):
        step(mx.array([[3]]), cache)
    assert cache[0].offset == 2
    held = verdict.read(file)
    assert held is not None and held.wrong == {}
